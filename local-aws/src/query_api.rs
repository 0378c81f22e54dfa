//! The protocol of AWS's older services: a form in, XML out.

use axum::body::Body;
use http::StatusCode;

use crate::wire::{ApiError, Response, escape_xml, query_pairs, set_header, uuid};

/// What an operation is called with.
pub struct Call {
    parameters: Vec<(String, String)>,
}

impl Call {
    /// Reads the form.
    pub fn read(body: &[u8]) -> Self {
        Self { parameters: query_pairs(&String::from_utf8_lossy(body)) }
    }

    /// The operation's name; empty when the form has none.
    pub fn action(&self) -> &str {
        self.get("Action").unwrap_or_default()
    }

    /// The members of a list, in order.
    pub fn list(&self, name: &str) -> Vec<&str> {
        (1..).map_while(|place| self.get(&format!("{name}.member.{place}"))).collect()
    }

    /// A parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Refuses parameters that are given and that nothing here would act on.
    ///
    /// # Errors
    /// `NotImplemented`
    pub fn refuse_unknown(&self, known: &[&str]) -> Result<(), ApiError> {
        let name = |parameter: &str| parameter.split('.').next().unwrap_or_default().to_owned();
        let unknown = self
            .parameters
            .iter()
            .map(|(parameter, _)| name(parameter))
            .find(|name| !["Action", "Version"].contains(&name.as_str()) && !known.contains(&name.as_str()));
        match unknown {
            Some(name) => Err(ApiError::not_implemented(format!("{} with {name}", self.action()))),
            None => Ok(()),
        }
    }
}

/// The answer of `action`, whose result has `inner` as its content; operations that answer nothing have no result.
pub fn xml_reply(status: StatusCode, namespace: &str, action: &str, inner: &str) -> Response {
    let result = if inner.is_empty() { String::new() } else { format!("<{action}Result>{inner}</{action}Result>") };
    let text = format!(
        "<{action}Response xmlns=\"{namespace}\">{result}\
         <ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></{action}Response>",
        uuid()
    );
    xml(status, text)
}

/// An exception.
pub fn xml_error(error: ApiError) -> Response {
    let kind = if error.status.is_server_error() { "Receiver" } else { "Sender" };
    let text = format!(
        "<ErrorResponse><Error><Type>{kind}</Type><Code>{}</Code><Message>{}</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
        error.code,
        escape_xml(&error.message),
        uuid()
    );
    xml(error.status, text)
}

fn xml(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    set_header(response.headers_mut(), "content-type", "text/xml");
    response
}
