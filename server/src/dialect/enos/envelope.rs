//! What every answer is wrapped in: `{"code":0,"msg":"OK","requestId":"…","data":…,"pagination":…}`.

use super::Answer;
use super::status::Failure;
use crate::guesses::WrongCredentials;
use crate::http::{Reply, json_bytes, retry_after};
use crate::secrets;
use ::http::StatusCode;
use serde::Serialize;
use std::fmt::Write as _;

pub(super) fn success(answer: &Answer) -> Reply {
    let mut text = format!("{{\"code\":0,\"msg\":\"OK\",\"requestId\":\"{}\",\"data\":", request_id()).into_bytes();
    text.extend_from_slice(&answer.data);
    if let Some(pagination) = &answer.pagination {
        text.extend_from_slice(b",\"pagination\":");
        // Three numbers: nothing in it can fail.
        let _ = serde_json::to_writer(&mut text, pagination);
    }
    text.push(b'}');
    json_bytes(StatusCode::OK, text.into())
}

pub(super) fn failure(failure: &Failure) -> Reply {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown<'a> {
        code: u32,
        msg: &'a str,
        request_id: String,
        data: (),
    }
    let shown = Shown { code: failure.code as u32, msg: &failure.message, request_id: request_id(), data: () };
    let mut reply = crate::http::json(failure.http, &shown);
    if failure.is_wrong_credentials {
        reply.extensions_mut().insert(WrongCredentials);
    }
    match failure.retry_after_s {
        Some(seconds) => retry_after(reply, seconds),
        None => reply,
    }
}

/// A random UUID (RFC 9562, version 4). It joins a line of a client's log to nothing but itself, so a system that has no random
/// bytes for it answers zeros rather than not at all.
fn request_id() -> String {
    let mut bytes: [u8; 16] = secrets::random().unwrap_or_default();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (position, byte) in bytes.iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_a_version_4_uuid_and_never_the_same() {
        let (first, second) = (request_id(), request_id());
        assert_ne!(first, second);
        let groups: Vec<usize> = first.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert_eq!(&first[14..15], "4");
        assert!("89ab".contains(&first[19..20]), "{first}");
    }
}
