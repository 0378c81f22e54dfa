//! Mail to the model's owners: lettre builds it and speaks SMTP.
//!
//! The embedded cloud keeps mail as files in its outbox. Every other environment sends it to the server that
//! `[environments.NAME.mail]` names, with the credentials in `SMTP_USERNAME` and `SMTP_PASSWORD`, and encrypted unless the
//! server is this machine.

use std::env;
use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use chrono::{DateTime, Utc};
use lettre::message::Mailbox;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{Message, SmtpTransport, Transport};

use crate::config::{MailServer, MailTls};
use crate::{paths, records};

/// How long the server may take for each step of the conversation.
const LIMIT: Duration = Duration::from_secs(20);

/// An address as pipeline.toml writes it: `a@example.com` or `Name <a@example.com>`.
pub fn address(text: &str) -> Result<Mailbox> {
    text.parse().map_err(|error| anyhow!("`{text}` is no mail address: {error}"))
}

/// A message of one paragraph.
pub fn message(from: &str, to: &[String], subject: &str, text: String, now: DateTime<Utc>) -> Result<Message> {
    let from = address(from)?;
    let id = format!("<{}.{}@{}>", now.timestamp_micros(), std::process::id(), from.email.domain());
    // Nobody's holiday notice needs to come back.
    let automatic = HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_string());
    let mut builder = Message::builder().from(from).subject(subject).date(now.into()).message_id(Some(id));
    for to in to {
        builder = builder.to(address(to)?);
    }
    let builder = builder.raw_header(automatic).header(ContentType::TEXT_PLAIN);
    builder.body(text).context("put the mail together")
}

/// Writes a message as a file that any mail program opens.
pub fn write(path: &Path, message: &Message) -> Result<()> {
    records::write_atomically(path, &message.formatted())
}

/// Whether a host is this machine, so that what is sent there crosses no network.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The name that the embedded cloud's outbox gives to a mail.
pub fn outbox_file(root: &Path, now: DateTime<Utc>, name: &str) -> PathBuf {
    paths::outbox(root).join(format!("{}-{name}.eml", now.format("%Y%m%dT%H%M%S%3fZ")))
}

/// Whether everything is there that sending needs on this side.
pub fn check(server: &MailServer) -> Result<()> {
    encryption(server)?;
    credentials(server)?;
    Ok(())
}

/// Sends a message by SMTP.
///
/// # Errors
/// No credentials, no such server, no encryption, a refusal, silence: the message names the server and what it answered.
pub fn send(server: &MailServer, message: &Message) -> Result<()> {
    send_within(LIMIT, server, message)
}

fn send_within(limit: Duration, server: &MailServer, message: &Message) -> Result<()> {
    let MailServer { host, port, .. } = server;
    let transport = SmtpTransport::builder_dangerous(host).port(*port).tls(encryption(server)?).timeout(Some(limit));
    let transport = match credentials(server)? {
        Some(credentials) => transport.credentials(credentials),
        None => transport,
    };
    let failed = |error: smtp::Error| match silent(&error) {
        true => anyhow!("send mail by {host}:{port}: no answer within {} s", limit.as_secs_f32()),
        // lettre's errors tell their causes themselves.
        false => anyhow!("send mail by {host}:{port}: {error}"),
    };
    transport.build().send(message).map_err(failed)?;
    Ok(())
}

/// Whether the server let the time go by. A socket whose time is over says that it would block.
fn silent(error: &smtp::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

fn encryption(server: &MailServer) -> Result<Tls> {
    let parameters = || {
        TlsParameters::new(server.host.clone())
            .map_err(|error| anyhow!("read this machine's certificate authorities: {error}"))
    };
    Ok(match server.tls {
        MailTls::Starttls => Tls::Required(parameters()?),
        MailTls::Implicit => Tls::Wrapper(parameters()?),
        MailTls::None if is_loopback(&server.host) => Tls::None,
        MailTls::None => bail!("mail to {} must be encrypted: only loopback may do without TLS", server.host),
    })
}

/// The credentials in the environment. A server on loopback may ask for none.
fn credentials(server: &MailServer) -> Result<Option<Credentials>> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    match (variable("SMTP_USERNAME"), variable("SMTP_PASSWORD")) {
        (Some(name), Some(password)) => Ok(Some(Credentials::new(name, password))),
        (None, None) if is_loopback(&server.host) => Ok(None),
        (name, _) => {
            let missing = if name.is_some() { "SMTP_PASSWORD" } else { "SMTP_USERNAME" };
            bail!("{missing} is not set: {} asks for SMTP_USERNAME and SMTP_PASSWORD", server.host)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_cannot_carry_a_second_header() {
        for good in ["a@example.com", "Model owners <a@example.com>", "Jürgen <j@example.com>"] {
            address(good).unwrap();
        }
        for bad in ["", "nobody", "a@example.com\r\nBcc: b@example.com", "A\nBcc: b@example.com <a@example.com>"] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_plain_letters_is_encoded() {
        let to = ["Jürgen Groß <j@example.com>".to_string()];
        let made = message("p@example.com", &to, "Grüße\r\nBcc: b@example.com", "Wörter".to_string(), Utc::now());
        let text = String::from_utf8(made.unwrap().formatted()).unwrap();
        assert!(text.is_ascii(), "{text}");
        let (headers, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(!headers.lines().any(|line| line.starts_with("Bcc")), "{headers}");
    }

    #[test]
    fn a_server_that_says_nothing_is_not_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = MailServer { host: "127.0.0.1".to_string(), port, tls: MailTls::None };
        let to = ["a@example.com".to_string()];
        let message = message("p@example.com", &to, "Subject", "Text".to_string(), Utc::now()).unwrap();
        let error = send_within(Duration::from_millis(100), &server, &message).unwrap_err().to_string();
        assert!(error.ends_with(&format!("127.0.0.1:{port}: no answer within 0.1 s")), "{error}");
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "10.0.0.1", "0.0.0.0", "smtp.example.com", "127.0.0.1.example.com"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
