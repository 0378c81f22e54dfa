//! How long an answer is waited for, and how often and when a call is tried again: the same for every service.
//!
//! `XTASK_ATTEMPT_TIMEOUT_SECONDS` sets how long one attempt of a call may take, `XTASK_RETRY_PAUSE_MILLISECONDS` the pause
//! before the second attempt; each further pause is twice as long, up to a limit.

use std::env;
use std::time::Duration;

use anyhow::{Result, bail};

/// How often a call is tried.
pub const ATTEMPTS: u32 = 5;
/// How long a connection may take to come about.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest pause between two attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(20);

const TIMEOUT: Variable = Variable { name: "XTASK_ATTEMPT_TIMEOUT_SECONDS", unit: "seconds", default: 60 };
const PAUSE: Variable = Variable { name: "XTASK_RETRY_PAUSE_MILLISECONDS", unit: "milliseconds", default: 1_000 };

/// A number that an environment variable may change.
struct Variable {
    name: &'static str,
    unit: &'static str,
    default: u64,
}

impl Variable {
    fn value(&self) -> Result<u64> {
        match env::var_os(self.name) {
            None => Ok(self.default),
            Some(text) => self.parse(&text.to_string_lossy()),
        }
    }

    fn parse(&self, text: &str) -> Result<u64> {
        match text.parse() {
            Ok(number) if (1..=3_600_000).contains(&number) => Ok(number),
            _ => bail!("{} is `{text}`, not a whole number of {} from 1 on", self.name, self.unit),
        }
    }
}

/// Refuses settings that cannot be understood.
///
/// # Errors
/// The variable's name and what it says.
pub fn check() -> Result<()> {
    TIMEOUT.value().and(PAUSE.value()).map(|_| ())
}

/// How long one attempt of a call may take.
pub fn attempt_timeout() -> Duration {
    Duration::from_secs(TIMEOUT.value().unwrap_or(TIMEOUT.default))
}

/// The pause before the second attempt.
pub fn first_pause() -> Duration {
    Duration::from_millis(PAUSE.value().unwrap_or(PAUSE.default))
}

/// Calls until it succeeds, fails for a reason that does not pass, or was tried often enough.
pub async fn retry<T, E, F>(passes: impl Fn(&E) -> bool, call: impl FnMut() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    retry_after(first_pause(), passes, call).await
}

async fn retry_after<T, E, F>(
    mut pause: Duration,
    passes: impl Fn(&E) -> bool,
    mut call: impl FnMut() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(error) if passes(&error) => tokio::time::sleep(pause.min(LONGEST_PAUSE)).await,
            result => return result,
        }
        pause *= 2;
    }
    call().await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn what_passes_is_tried_again_up_to_a_limit_and_nothing_else_is() {
        let calls = Cell::new(0);
        let call = |enough: u32| {
            calls.set(calls.get() + 1);
            std::future::ready(if calls.get() < enough { Err(calls.get()) } else { Ok(calls.get()) })
        };
        assert_eq!(retry_after(Duration::ZERO, |_| true, || call(3)).await, Ok(3));
        calls.set(0);
        assert_eq!(retry_after(Duration::ZERO, |_| true, || call(100)).await, Err(ATTEMPTS));
        calls.set(0);
        assert_eq!(retry_after(Duration::ZERO, |_| false, || call(3)).await, Err(1));
    }

    #[test]
    fn settings_that_are_no_numbers_are_refused_by_name() {
        assert_eq!(TIMEOUT.parse("2").unwrap(), 2);
        for bad in ["", "0", "-1", "soon", "1.5"] {
            let error = TIMEOUT.parse(bad).unwrap_err().to_string();
            assert!(error.contains("XTASK_ATTEMPT_TIMEOUT_SECONDS") && error.contains(&format!("`{bad}`")), "{error}");
        }
    }
}
