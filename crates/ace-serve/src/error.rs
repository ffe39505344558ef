//! What is refused, and how a client hears of it: in the form of OpenAI's API, which its official clients turn into their
//! exceptions, with our hint beside it.

use crate::jobs::Problem;
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// Seconds after which a client that was sent away may come again, where nothing better is known.
const SOON: u64 = 2;

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What HTTP calls it.
    pub status: StatusCode,
    /// One line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Which field is at fault.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// Seconds after which it is worth trying again.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// Of a status, with a line.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), hint: None, param: None, code: None, retry_after: None }
    }

    /// What was asked cannot be done.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// There is nothing of that name.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message).code("not_found")
    }

    /// Come again in `seconds`.
    pub fn later(status: StatusCode, message: impl Into<String>, seconds: Option<u64>) -> Self {
        Self { retry_after: Some(seconds.unwrap_or(SOON)), ..Self::new(status, message) }
    }

    /// With what to do about it.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// With the field that is at fault.
    pub fn param(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// With a word for programs.
    pub fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let Self { message, hint, param, code, .. } = self;
        json!({ "error": { "message": message, "type": kind, "param": param, "code": code, "hint": hint } })
    }
}

impl From<ace_plus::Error> for Refusal {
    fn from(error: ace_plus::Error) -> Self {
        Self::from(Problem::from(&error))
    }
}

impl From<Problem> for Refusal {
    fn from(Problem { message, hint, status }: Problem) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { hint, ..Self::new(status, message) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_keys_of_an_error_are_there() {
        let body = Refusal::bad("no").param("n").body();
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert_eq!((&body["error"]["param"], &body["error"]["code"]), (&"n".into(), &Value::Null));
        let later = Refusal::later(StatusCode::TOO_MANY_REQUESTS, "full", Some(7)).into_response();
        assert_eq!(later.headers()[RETRY_AFTER], "7");
    }
}
