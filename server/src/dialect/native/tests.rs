//! What the pieces promise together: the description names every route, and refusals have one shape.

use super::failure::Failure;
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::future::Future as _;
use std::task::{Context, Poll, Waker};

fn body_text(failure: Failure) -> String {
    let mut body = std::pin::pin!(failure.into_reply().into_body().collect());
    let Poll::Ready(Ok(body)) = body.as_mut().poll(&mut Context::from_waker(Waker::noop())) else { panic!("the body is at hand") };
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

#[test]
fn a_refusal_has_a_code_a_message_and_the_headers_of_its_status() {
    let failure = Failure::invalid("limit is 0; give 1 to 1000");
    assert_eq!(body_text(failure), r#"{"error":{"code":"invalid_argument","message":"limit is 0; give 1 to 1000"}}"#);
    assert_eq!(Failure::wrong_method("GET, HEAD".to_owned()).into_reply().headers()["allow"], "GET, HEAD");
    assert_eq!(Failure::from(crate::auth::AuthError::Unknown).into_reply().headers()["www-authenticate"], "Bearer");
    assert_eq!(Failure::from(sluicegate::Error::Overloaded).into_reply().headers()["retry-after"], "1");
}

#[test]
fn the_description_is_openapi_and_every_reference_in_it_leads_somewhere() {
    let description: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1."));
    let mut references = Vec::new();
    collect_references(&description, &mut references);
    assert!(references.len() > 50, "only {} references", references.len());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads out of the document"));
        assert!(description.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                found.push(reference.clone());
            }
            map.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

#[test]
fn the_description_has_every_call() {
    let description: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    for (method, path) in super::routes() {
        let described = &description["paths"][&path];
        assert!(described[method.to_ascii_lowercase()]["responses"].is_object(), "{method} {path} is not described");
        // Who fetches an image asks for its size first.
        assert!(!path.contains("images/{") || described["head"]["responses"].is_object(), "HEAD {path} is not described");
    }
}
