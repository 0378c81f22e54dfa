//! STS: whose credentials these are.

use http::StatusCode;

use crate::{
    ACCESS_KEY_ID, ACCOUNT_ID,
    query_api::{Call, xml_reply},
    wire::{ApiError, Response},
};

/// Answers one operation.
///
/// # Errors
/// The exception that AWS answers.
pub fn call(call: &Call) -> Result<Response, ApiError> {
    match call.action() {
        "GetCallerIdentity" => {
            let inner = format!(
                "<Arn>arn:aws:iam::{ACCOUNT_ID}:root</Arn><UserId>{ACCESS_KEY_ID}</UserId><Account>{ACCOUNT_ID}</Account>"
            );
            Ok(xml_reply(StatusCode::OK, "https://sts.amazonaws.com/doc/2011-06-15/", "GetCallerIdentity", &inner))
        }
        other => Err(ApiError::not_implemented(format!("sts: {other}"))),
    }
}
