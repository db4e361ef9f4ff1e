//! A request's head and an image in, a reply out. Pure: no clock, no disk, no waiting.

use super::body::{ImageBody, Part};
use super::conditions::{Validators, Verdict, evaluate, http_date, range_applies};
use ::http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE,
};
use ::http::{Method, Response, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use sluicegate::image::{ByteRange, RangeRequest, SealedImage, range};
use sluicegate::model::{ImageId, Timestamp};
use std::fmt::Write;

/// Answers a request for an image.
///
/// `name` is what the file is to be called where it is saved; `now` only keeps `Last-Modified` from lying in the future.
pub fn respond(
    method: &Method,
    headers: &HeaderMap,
    image: &SealedImage,
    name: Option<&str>,
    now: Timestamp,
) -> Response<ImageBody> {
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.6
    //# The origin server MUST generate an Allow header field in a 405 response
    if method != Method::GET && method != Method::HEAD {
        let mut reply = refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "an image is fetched with GET or HEAD");
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return reply;
    }
    let fields = Fields::of(image, now);
    let mut reply = match evaluate(headers, fields.validators()) {
        Verdict::NotModified => not_modified(&fields),
        Verdict::PreconditionFailed => precondition_failed(&fields),
        //= https://www.rfc-editor.org/rfc/rfc9110#section-14.2
        //# A server MUST ignore a Range header field received with a request method that is unrecognized or for which range handling is
        //# not defined. For this specification, GET is the only method for which range handling is defined.
        Verdict::Proceed if method == Method::HEAD => whole(image, &fields, name),
        Verdict::Proceed => match requested(headers, image.size(), &fields) {
            RangeRequest::Whole => whole(image, &fields, name),
            RangeRequest::One(range) => part(image, &fields, range, headers.contains_key(IF_RANGE)),
            RangeRequest::Many(ranges) => parts(image, &fields, &ranges, headers.contains_key(IF_RANGE)),
            RangeRequest::NotSatisfiable => not_satisfiable(image.size()),
        },
    };
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.2
    //# The HEAD method is identical to GET except that the server MUST NOT send content in the response.
    if method == Method::HEAD {
        *reply.body_mut() = ImageBody::empty();
    }
    reply
}

/// The fields of an image that are the same in every reply. Computed at its first request and kept with the image: of 600,000 requests
/// for a kilobyte each, 599,999 find them here.
#[derive(Clone, Debug)]
struct Fields {
    etag: HeaderValue,
    last_modified: HeaderValue,
    modified_s: u64,
    repr_digest: HeaderValue,
    content_md5: HeaderValue,
}

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// Private, as a link is one device's. No proxy may pack or rewrite it: then its digests would be wrong. What has its hash for a name
/// never changes, so nobody need ask again.
const CACHE: HeaderValue = HeaderValue::from_static("private, no-transform, immutable, max-age=31536000");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const BYTES: HeaderValue = HeaderValue::from_static("bytes");

impl Fields {
    fn of(image: &SealedImage, now: Timestamp) -> Self {
        let kept = image.derived(|image| Self::compute(image, now));
        // Values share their bytes; what is cloned is references.
        kept.cloned().unwrap_or_else(|| Self::compute(image, now))
    }

    fn compute(image: &SealedImage, now: Timestamp) -> Self {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-8.8.2.1
        //# An origin server with a clock MUST NOT generate a Last-Modified date that is later than the server's time of message
        //# origination (Date).
        let modified_s = image.modified_at().min(now).as_seconds();
        Self {
            //= https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3
            //# entity-tag = [ weak ] opaque-tag
            etag: value(&format!("\"{}\"", image.id())),
            last_modified: value(&http_date(modified_s)),
            modified_s,
            // RFC 9530, section 3: a structured field, its bytes between colons.
            repr_digest: value(&format!("sha-256=:{}:", STANDARD.encode(image.id().0))),
            content_md5: value(&STANDARD.encode(image.md5())),
        }
    }

    fn validators(&self) -> Validators<'_> {
        Validators { etag: &self.etag, modified_s: self.modified_s }
    }
}

/// The ranges asked for, as far as they count.
fn requested(headers: &HeaderMap, size: u64, fields: &Fields) -> RangeRequest {
    let mut values = headers.get_all(RANGE).iter();
    let Some(value) = values.next() else { return RangeRequest::Whole };
    //= https://www.rfc-editor.org/rfc/rfc9110#section-5.3
    //# a sender MUST NOT generate multiple field lines with the same name in a message (whether in the headers or trailers) […] unless
    //# that field's definition allows multiple field line values to be recombined as a comma-separated list
    if values.next().is_some() || !range_applies(headers, fields.validators()) {
        return RangeRequest::Whole;
    }
    value.to_str().map_or(RangeRequest::Whole, |value| range::parse(value, size))
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.1
fn whole(image: &SealedImage, fields: &Fields, name: Option<&str>) -> Response<ImageBody> {
    let mut reply = reply(StatusCode::OK, image.size(), ImageBody::one(Part::image(image.bytes())).of(image));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, OCTETS);
    // Section 14.3. Whoever already asks for ranges need not be told.
    headers.insert(ACCEPT_RANGES, BYTES);
    representation(headers, fields);
    // RFC 1864: the MD5 of the content sent, so in no partial reply.
    headers.insert(CONTENT_MD5, fields.content_md5.clone());
    if let Some(disposition) = name.and_then(disposition) {
        headers.insert(CONTENT_DISPOSITION, disposition);
    }
    reply
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7.1
//# If a single part is being transferred, the server generating the 206 response MUST generate a Content-Range header field, describing
//# what range of the selected representation is enclosed, and a content consisting of the range.
fn part(image: &SealedImage, fields: &Fields, range: ByteRange, is_if_range: bool) -> Response<ImageBody> {
    let mut reply = reply(StatusCode::PARTIAL_CONTENT, range.length(), ImageBody::one(Part::image(image.slice(range))).of(image));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_RANGE, content_range(range, image.size()));
    if !is_if_range {
        headers.insert(CONTENT_TYPE, OCTETS);
    }
    partial(headers, fields, is_if_range);
    reply
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7.2
//# If multiple parts are being transferred, the server generating the 206 response MUST generate "multipart/byteranges" content […]
//# and a Content-Type header field containing the "multipart/byteranges" media type and its required boundary parameter.
fn parts(image: &SealedImage, fields: &Fields, ranges: &[ByteRange], is_if_range: bool) -> Response<ImageBody> {
    let (parts, boundary) = multipart(image, ranges);
    let body = ImageBody::many(parts).of(image);
    let mut reply = reply(StatusCode::PARTIAL_CONTENT, body.left_bytes(), body);
    let headers = reply.headers_mut();
    //# a server MUST NOT generate a Content-Range header field in the HTTP header section of a multiple part response
    headers.insert(CONTENT_TYPE, value(&format!("multipart/byteranges; boundary={boundary}")));
    partial(headers, fields, is_if_range);
    reply
}

/// Between two slices of the map stands a slice of one short buffer that has all the delimiters.
fn multipart(image: &SealedImage, ranges: &[ByteRange]) -> (Vec<Part>, String) {
    let boundary = boundary(image.id());
    let mut delimiters = BytesMut::with_capacity(ranges.len() * 160);
    let mut heads = Vec::with_capacity(ranges.len());
    for (number, range) in ranges.iter().enumerate() {
        let line_end = if number == 0 { "" } else { "\r\n" };
        let head = format!(
            "{line_end}--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {}-{}/{}\r\n\r\n",
            range.offset(),
            range.last(),
            image.size()
        );
        delimiters.extend_from_slice(head.as_bytes());
        heads.push(head.len());
    }
    delimiters.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let mut delimiters = delimiters.freeze();
    let mut parts = Vec::with_capacity(ranges.len() * 2 + 1);
    for (range, head) in ranges.iter().zip(heads) {
        parts.push(Part::other(delimiters.split_to(head)));
        parts.push(Part::image(image.slice(*range)));
    }
    parts.push(Part::other(delimiters));
    (parts, boundary)
}

/// No image contains its own hash: whoever could make one that does has broken SHA-256. So no part contains the boundary.
fn boundary(id: ImageId) -> String {
    let mut hash = id.to_string();
    hash.truncate(32);
    hash
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.17
//# A server that generates a 416 response to a byte-range request SHOULD generate a Content-Range header field specifying the current
//# length of the selected representation
fn not_satisfiable(size: u64) -> Response<ImageBody> {
    let message = format!(
        "the image has {size} bytes and no range asked for begins inside it, or more than {} ranges or twice the image were asked for; ask for fewer bytes below {size}",
        range::RANGES_MAX
    );
    let mut reply = refusal(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", &message);
    reply.headers_mut().insert(CONTENT_RANGE, value(&format!("bytes */{size}")));
    reply
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.4.5
//# The server generating a 304 response MUST generate any of the following header fields that would have been sent in a 200 (OK)
//# response to the same request: Content-Location, Date, ETag, and Vary; Cache-Control and Expires
fn not_modified(fields: &Fields) -> Response<ImageBody> {
    let mut reply = Response::new(ImageBody::empty());
    *reply.status_mut() = StatusCode::NOT_MODIFIED;
    reply.headers_mut().insert(ETAG, fields.etag.clone());
    reply.headers_mut().insert(CACHE_CONTROL, CACHE);
    reply
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.13
fn precondition_failed(fields: &Fields) -> Response<ImageBody> {
    let message = "the image here is not the one asked for: compare ETag and Last-Modified, and check again for a link";
    let mut reply = refusal(StatusCode::PRECONDITION_FAILED, "precondition_failed", message);
    reply.headers_mut().insert(ETAG, fields.etag.clone());
    reply.headers_mut().insert(LAST_MODIFIED, fields.last_modified.clone());
    reply
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7
//# A server MUST generate the following header fields, in addition to those required in the subsections below, if the field would have
//# been sent in a 200 (OK) response to the same request: Date, Cache-Control, ETag, Expires, Content-Location, and Vary.
fn partial(headers: &mut HeaderMap, fields: &Fields, is_if_range: bool) {
    if !is_if_range {
        //# Otherwise, the sender MUST generate all of the representation header fields that would have been sent in a 200 (OK) response
        //# to the same request.
        representation(headers, fields);
        return;
    }
    //# If a 206 is generated in response to a request with an If-Range header field, the sender SHOULD NOT generate other representation
    //# header fields beyond those required because the client already has a prior response containing those header fields.
    headers.insert(ETAG, fields.etag.clone());
    headers.insert(CACHE_CONTROL, CACHE);
}

fn representation(headers: &mut HeaderMap, fields: &Fields) {
    headers.insert(ETAG, fields.etag.clone());
    headers.insert(LAST_MODIFIED, fields.last_modified.clone());
    // RFC 9530, section 3: of the whole representation, in a partial reply too.
    headers.insert(REPR_DIGEST, fields.repr_digest.clone());
    headers.insert(CACHE_CONTROL, CACHE);
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-14.4
//# Content-Range = range-unit SP ( range-resp / unsatisfied-range )
fn content_range(range: ByteRange, size: u64) -> HeaderValue {
    let mut text = BytesMut::with_capacity(48);
    // Writing to a growing buffer doesn't fail.
    _ = write!(text, "bytes {}-{}/{size}", range.offset(), range.last());
    HeaderValue::from_maybe_shared(text.freeze()).unwrap_or(BYTES)
}

fn reply(status: StatusCode, length: u64, body: ImageBody) -> Response<ImageBody> {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    // A map for 14 fields: grown once rather than three times.
    reply.headers_mut().reserve(12);
    //= https://www.rfc-editor.org/rfc/rfc9110#section-8.6
    //# In the absence of Transfer-Encoding, an origin server SHOULD send a Content-Length header field when the content size is known
    reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    reply
}

/// A short message in the form of the native API. Neither text needs escaping in JSON.
fn refusal(status: StatusCode, code: &str, message: &str) -> Response<ImageBody> {
    let text = Bytes::from(format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#));
    let mut reply = reply(status, text.len() as u64, ImageBody::one(Part::other(text)));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// What a browser calls the file (RFC 6266). Names that would make the head too long are left out.
fn disposition(name: &str) -> Option<HeaderValue> {
    const CHARACTERS_MAX: usize = 200;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte);
    let text = if name.bytes().all(|byte| is_plain(byte) || b" ()[],;=@{}'".contains(&byte)) {
        format!("attachment; filename=\"{name}\"")
    } else {
        //= https://www.rfc-editor.org/rfc/rfc8187#section-3.2.1
        //# ext-value = charset  "'" [ language ] "'" value-chars
        let mut text = "attachment; filename*=UTF-8''".to_owned();
        for byte in name.bytes() {
            if is_plain(byte) {
                text.push(char::from(byte));
            } else {
                _ = write!(text, "%{byte:02X}");
            }
        }
        text
    };
    (!name.is_empty() && text.len() <= CHARACTERS_MAX).then(|| value(&text))
}

/// A field value from text that we made ourselves, of visible ASCII characters.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| {
        debug_assert!(false, "{text:?} is no field value");
        HeaderValue::from_static("")
    })
}

#[cfg(test)]
#[path = "respond_tests.rs"]
mod tests;
