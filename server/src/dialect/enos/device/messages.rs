//! What devices and server tell each other.
//!
//! ```text
//! request  {"id":"7","version":"1.0","method":"ota.device.inform","params":{…}}
//! reply    {"id":"7","code":200,"data":{}}            refused: {"id":"7","code":460,"message":"…"}
//! ```
//!
//! The topic says what a request is; `method` is not looked at, because the platform's own libraries don't agree on it ("ota.inform",
//! "ota.device.inform", "Ota.device.getversion"). `version` is the protocol's and always 1.0 or 1.1 with the same meaning.
//!
//! An id comes back as it came, digit by digit: a library finds the request that waits for a reply by topic and id. A request without
//! one gets a reply without one. In a refusal there is no `data`: a library that expects a list there takes nothing for an empty one,
//! but stumbles over an object.
//!
//! Versions may be numbers. The platform's Python sample reports `1.0` without quotes; it is read as it is written, so that 1.10 stays
//! another version than 1.1.

use crate::dialect::common::decode::from_json;
use crate::dialect::common::lenient;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What a reply begins with, in the platform's numbers as its Python library lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Code {
    /// The platform's, and not the 400 of HTTP: the server failed, and the same request may do later.
    Internal = 400,
    /// The device may not say this, for instance in the name of another one.
    Forbidden = 401,
    UnknownDevice = 402,
    TooManyRequests = 429,
    /// Something is missing, malformed or out of its range.
    ParameterInvalid = 460,
    /// The payload is no JSON at all.
    NotJson = 6207,
}

/// The `id` of a request: a text or a number.
#[derive(Clone, Debug)]
pub(crate) struct MessageId(Box<RawValue>);

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received<T> {
    pub(crate) id: Option<MessageId>,
    pub(crate) params: T,
}

/// A request that couldn't be read, or isn't granted.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// Known where the fault lies further in.
    pub(crate) id: Option<MessageId>,
    pub(crate) code: Code,
    /// What was expected, what came, what to do.
    pub(crate) message: String,
}

/// The device runs this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inform {
    pub(crate) version: String,
}

/// How far an upgrade is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgressReport {
    /// 100 at most.
    pub(crate) step: i32,
    pub(crate) desc: Option<String>,
}

/// What a [`ProgressReport`] says. 100 is not yet success: that is an [`Inform`] with the target version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// 0 to 100.
    Running { percent: u8 },
    /// `code` is below zero; `detail` is the device's own words, or else what the code stands for.
    Failed { code: i32, detail: String },
}

/// Which firmware is there for me?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GetVersion;

/// I want an upgrade. The platform's libraries have the topic and its reply's, but none of them sends it or says what either carries, so
/// this is ours: the reply only says that it was heard, and what there is for the device comes as an `upgrade` of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Which one is wanted, if it matters.
    pub(crate) version: Option<String>,
}

/// What a device answers to `upgrade`, if it answers at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpgradeReply {
    /// That of the `upgrade`, a number as its digits.
    pub(crate) id: Option<String>,
    /// See [`UpgradeReply::accepted`].
    pub(crate) code: i64,
    pub(crate) message: Option<String>,
}

/// What is offered, in `upgrade` and in the reply to `getversion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Firmware<'a> {
    pub(crate) version: &'a str,
    /// `md5` or `sha256`.
    pub(crate) sign_method: &'a str,
    /// The file's digest in hexadecimal digits.
    pub(crate) sign: &'a str,
    pub(crate) file_url: &'a str,
    /// In bytes. The Java library has room for 2 GiB less one and fails on more.
    pub(crate) file_size: u64,
}

/// What stands in `params` of a request.
pub(crate) trait Params: Sized {
    /// `params`: a JSON text.
    fn read(params: &[u8]) -> Result<Self, String>;
}

impl<T: Params> Received<T> {
    pub(crate) fn read(payload: &[u8]) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
            #[serde(borrow, default)]
            params: Option<&'a RawValue>,
        }
        let envelope: lenient::Object<Envelope<'_>> = serde_json::from_slice(payload).map_err(|error| {
            let (code, what) = if error.is_data() {
                (Code::ParameterInvalid, "the payload must be an object with id and params")
            } else {
                (Code::NotJson, "the payload must be JSON")
            };
            // A text where the object should be stands in the error whole.
            let error: String = error.to_string().chars().take(200).collect();
            Refusal { id: None, code, message: format!("{what}: {error}") }
        })?;
        let lenient::Object(Envelope { id, params }) = envelope;
        let id = id.and_then(MessageId::read);
        let params = params.map_or("{}", RawValue::get);
        match T::read(params.as_bytes()) {
            Ok(params) => Ok(Self { id, params }),
            Err(message) => Err(Refusal { id, code: Code::ParameterInvalid, message: format!("params: {message}") }),
        }
    }

    /// All is well.
    pub(crate) fn reply(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Nothing {}
        write(&Success { id: raw(&self.id), code: SUCCESS, data: Nothing {} })
    }

    /// It isn't granted.
    pub(crate) fn refuse(self, code: Code, message: impl Into<String>) -> Refusal {
        Refusal { id: self.id, code, message: message.into() }
    }
}

impl Received<GetVersion> {
    /// What is there for the device; nothing: an empty list.
    pub(crate) fn reply_with(&self, firmware: &[Firmware<'_>]) -> Vec<u8> {
        write(&Success { id: raw(&self.id), code: SUCCESS, data: firmware })
    }
}

impl Refusal {
    pub(crate) fn reply(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Shown<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a RawValue>,
            code: u32,
            message: &'a str,
        }
        write(&Shown { id: raw(&self.id), code: self.code as u32, message: &self.message })
    }
}

/// An offer. The id should be the digits of a number: the platform's pages call it a Long, its libraries take a text.
pub(crate) fn upgrade(id: &str, firmware: &Firmware<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Command<'a> {
        id: &'a str,
        version: &'static str,
        method: &'static str,
        params: &'a Firmware<'a>,
    }
    write(&Command { id, version: "1.0", method: "ota.device.upgrade", params: firmware })
}

impl MessageId {
    /// None of anything but a text or a number: it couldn't be what a reply is found by.
    fn read(value: &RawValue) -> Option<Self> {
        value.get().starts_with(|char: char| matches!(char, '"' | '-' | '0'..='9')).then(|| Self(value.to_owned()))
    }
}

impl Params for Inform {
    fn read(params: &[u8]) -> Result<Self, String> {
        let written: WrittenVersion = from_json(params)?;
        let version = written.version.ok_or("version is required, and is missing or empty; send the version that runs")?;
        Ok(Self { version })
    }
}

impl Params for ProgressReport {
    fn read(params: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Written {
            #[serde(default, deserialize_with = "lenient::optional_integer")]
            step: Option<i32>,
            #[serde(default, deserialize_with = "text_as_written")]
            desc: Option<String>,
        }
        let written: Written = from_json(params)?;
        let step = written.step.ok_or("step is required, and is missing or empty; send 0 to 100, or below zero for a failure")?;
        if step > 100 {
            return Err(format!("step is {step}; send 0 to 100, or below zero for a failure"));
        }
        Ok(Self { step, desc: written.desc })
    }
}

impl ProgressReport {
    /// Any step below zero is a failure, also one that the platform has no name for: what it means, the device's maker knows.
    pub(crate) fn meaning(&self) -> Progress {
        if let Ok(percent) = u8::try_from(self.step) {
            return Progress::Running { percent };
        }
        let known = match self.step {
            -1 => "the device failed for a reason that it doesn't name",
            -2 => "the device could not download the firmware",
            -3 => "the firmware did not pass the device's check of its digest",
            -4 => "the device could not write the firmware to its flash",
            -5 => "the device declined the upgrade",
            _ => "the device failed for a reason of its own",
        };
        Progress::Failed { code: self.step, detail: self.desc.as_deref().unwrap_or(known).to_owned() }
    }
}

impl Params for GetVersion {
    /// Whatever it carries doesn't matter.
    fn read(_params: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Params for Request {
    fn read(params: &[u8]) -> Result<Self, String> {
        from_json(params).map(|written: WrittenVersion| Self { version: written.version })
    }
}

impl UpgradeReply {
    /// The fault is for a log: nobody waits for an answer to an answer.
    pub(crate) fn read(payload: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Written {
            #[serde(default, deserialize_with = "text_as_written")]
            id: Option<String>,
            #[serde(default, deserialize_with = "lenient::optional_integer")]
            code: Option<i64>,
            #[serde(default, deserialize_with = "text_as_written")]
            message: Option<String>,
        }
        let written: Written = from_json(payload)?;
        Ok(Self { id: written.id, code: written.code.unwrap_or(0), message: written.message })
    }

    /// 0 is what the Python library sends unless told otherwise. A device whose program handles no upgrades answers 1101.
    pub(crate) fn accepted(&self) -> bool {
        matches!(self.code, 0 | 200)
    }
}

#[derive(Debug, Deserialize)]
struct WrittenVersion {
    #[serde(default, deserialize_with = "text_as_written")]
    version: Option<String>,
}

#[derive(Serialize)]
struct Success<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    code: u32,
    data: T,
}

const SUCCESS: u32 = 200;

/// A text, or a number by the characters that it is written in. `null` and blanks are none.
fn text_as_written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let Some(value) = Option::<Box<RawValue>>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let text = match value.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(value.get()).map_err(de::Error::custom)?,
        Some(b'-' | b'0'..=b'9') => value.get().to_owned(),
        _ => {
            let got: String = value.get().chars().take(40).collect();
            return Err(de::Error::custom(format_args!("expected a text, got {got}")));
        }
    };
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

fn raw(id: &Option<MessageId>) -> Option<&RawValue> {
    id.as_ref().map(|MessageId(raw)| &**raw)
}

fn write(message: &impl Serialize) -> Vec<u8> {
    // Texts and numbers under fixed names: nothing in them can fail.
    serde_json::to_vec(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read<T: Params>(payload: &str) -> Result<T, (u32, String)> {
        let received = Received::read(payload.as_bytes()).map_err(|refusal| (refusal.code as u32, refusal.message))?;
        Ok(received.params)
    }

    fn text(payload: Vec<u8>) -> String {
        String::from_utf8(payload).unwrap()
    }

    #[test]
    fn a_version_is_read_however_it_is_written() {
        for (payload, version) in [
            (r#"{"id":"123","version":"1.0","method":"ota.device.inform","params":{"version":"1.0.1"}}"#, "1.0.1"),
            (r#"{"id":"1","version":"1.1","method":"ota.inform","params":{"version":1.0}}"#, "1.0"),
            (r#"{"params":{"version":1.10}}"#, "1.10"),
            (r#"{"params":{"version":2}}"#, "2"),
            (r#"{"params":{"version":1e3}}"#, "1e3"),
            (r#"{"params":{"version":-0.0}}"#, "-0.0"),
            (r#"{"params":{"version":123456789012345678901234567890}}"#, "123456789012345678901234567890"),
            (r#" { "params" : { "other" : [ ] , "version" : "\u6cf5\"" } , "sys" : { } } "#, "泵\""),
        ] {
            assert_eq!(read(payload), Ok(Inform { version: version.to_owned() }), "{payload}");
        }
    }

    #[test]
    fn a_step_is_read_as_text_and_as_number() {
        for (params, step, desc) in [
            (r#"{"step":"35","desc":"downloading"}"#, 35, Some("downloading")),
            (r#"{"step":35}"#, 35, None),
            (r#"{"step":" 007 ","desc":""}"#, 7, None),
            (r#"{"step":35.0,"desc":null}"#, 35, None),
            (r#"{"desc":2.50,"step":"-3"}"#, -3, Some("2.50")),
            (r#"{"step":"0"}"#, 0, None),
            (r#"{"step":100}"#, 100, None),
            (r#"{"step":-2147483648}"#, i32::MIN, None),
        ] {
            let expected = ProgressReport { step, desc: desc.map(str::to_owned) };
            assert_eq!(read(&format!(r#"{{"id":1,"params":{params}}}"#)), Ok(expected), "{params}");
        }
    }

    #[test]
    fn a_step_from_0_to_100_is_progress_and_any_below_zero_a_failure() {
        let meaning = |step, desc: Option<&str>| ProgressReport { step, desc: desc.map(str::to_owned) }.meaning();
        let failed = |code, detail: &str| Progress::Failed { code, detail: detail.to_owned() };
        assert_eq!(meaning(0, None), Progress::Running { percent: 0 });
        assert_eq!(meaning(100, Some("rebooting")), Progress::Running { percent: 100 });
        assert_eq!(meaning(-1, None), failed(-1, "the device failed for a reason that it doesn't name"));
        assert_eq!(meaning(-2, None), failed(-2, "the device could not download the firmware"));
        assert_eq!(meaning(-3, None), failed(-3, "the firmware did not pass the device's check of its digest"));
        assert_eq!(meaning(-4, None), failed(-4, "the device could not write the firmware to its flash"));
        assert_eq!(meaning(-5, None), failed(-5, "the device declined the upgrade"));
        assert_eq!(meaning(-6, None), failed(-6, "the device failed for a reason of its own"));
        assert_eq!(meaning(-2, Some("no route to host")), failed(-2, "no route to host"));
    }

    #[test]
    fn who_asks_for_firmware_need_say_nothing_more() {
        for payload in
            [r#"{"id":"1","method":"Ota.device.getversion","params":{}}"#, r#"{"params":null}"#, r#"{"params":[1]}"#, "{}"]
        {
            assert_eq!(read(payload), Ok(GetVersion), "{payload}");
        }
        let request = |version: Option<&str>| Ok(Request { version: version.map(str::to_owned) });
        for (payload, version) in [
            ("{}", None),
            (r#"{"params":{}}"#, None),
            (r#"{"params":{"version":" "}}"#, None),
            (r#"{"params":{"version":"2.0"}}"#, Some("2.0")),
        ] {
            assert_eq!(read(payload), request(version), "{payload}");
        }
    }

    #[test]
    fn each_fault_has_its_number_and_names_its_field() {
        let inform = |payload| read::<Inform>(payload).unwrap_err();
        let progress = |payload| read::<ProgressReport>(payload).unwrap_err();
        for ((code, message), expected, part) in [
            (inform(""), 6207, "the payload must be JSON: EOF"),
            (inform("{"), 6207, "the payload must be JSON"),
            (inform("hello"), 6207, "the payload must be JSON"),
            (inform(r#"{"params":{"version":"1"}} x"#), 6207, "the payload must be JSON"),
            (inform(r#"{"params":{"version":01}}"#), 6207, "the payload must be JSON"),
            (inform("7"), 460, "the payload must be an object"),
            (inform(r#"["1",{"version":"1"}]"#), 460, "the payload must be an object"),
            (inform(r#"{"id":1,"id":2}"#), 460, "duplicate field `id`"),
            (inform("{}"), 460, "params: version is required"),
            (inform(r#"{"params":{"version":" "}}"#), 460, "params: version is required"),
            (inform(r#"{"params":{"version":null}}"#), 460, "params: version is required"),
            (inform(r#"{"params":{"version":true}}"#), 460, "params: field version: expected a text, got true"),
            (inform(r#"{"params":{"version":["1"]}}"#), 460, "field version: expected a text, got [\"1\"]"),
            (inform(r#"{"params":{"version":"\ud800"}}"#), 460, "field version"),
            (inform(r#"{"params":["1"]}"#), 460, "params: expected an object, got an array"),
            (inform(r#"{"params":"1"}"#), 460, "params: expected"),
            (progress(r#"{"params":{"desc":"x"}}"#), 460, "params: step is required"),
            (progress(r#"{"params":{"step":""}}"#), 460, "params: step is required"),
            (progress(r#"{"params":{"step":101}}"#), 460, "params: step is 101; send 0 to 100"),
            (progress(r#"{"params":{"step":"half"}}"#), 460, "field step: expected an integer"),
            (progress(r#"{"params":{"step":35.5}}"#), 460, "field step: expected an integer"),
            (progress(r#"{"params":{"step":"99999999999"}}"#), 460, "field step: 99999999999 is out of range"),
        ] {
            assert_eq!(code, expected, "{message}");
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_id_comes_back_as_it_came() {
        for (id, echoed) in [
            (r#""id":"123","#, r#""id":"123","#),
            (r#""id":123,"#, r#""id":123,"#),
            (r#""id":123456789012345678901234567890,"#, r#""id":123456789012345678901234567890,"#),
            (r#""id":1.50,"#, r#""id":1.50,"#),
            (r#""id":"\u6cf5 \"x\" \/","#, r#""id":"\u6cf5 \"x\" \/","#),
            (r#""id":"","#, r#""id":"","#),
            (r#""id": "7" ,"#, r#""id":"7","#),
            (r#""id":null,"#, ""),
            (r#""id":true,"#, ""),
            (r#""id":{"a":1},"#, ""),
            ("", ""),
        ] {
            let good = format!(r#"{{{id}"params":{{"version":"1"}}}}"#);
            let reply = Received::<Inform>::read(good.as_bytes()).unwrap().reply();
            assert_eq!(text(reply), format!(r#"{{{echoed}"code":200,"data":{{}}}}"#), "{id}");
            let bad = format!(r#"{{{id}"params":{{"step":101}}}}"#);
            let reply = Received::<ProgressReport>::read(bad.as_bytes()).unwrap_err().reply();
            let message = "params: step is 101; send 0 to 100, or below zero for a failure";
            assert_eq!(text(reply), format!(r#"{{{echoed}"code":460,"message":"{message}"}}"#), "{id}");
        }
    }

    #[test]
    fn what_is_read_well_may_still_be_refused_with_the_platforms_numbers() {
        for (code, number) in [
            (Code::Internal, 400),
            (Code::Forbidden, 401),
            (Code::UnknownDevice, 402),
            (Code::TooManyRequests, 429),
            (Code::ParameterInvalid, 460),
            (Code::NotJson, 6207),
        ] {
            let received = Received::<GetVersion>::read(br#"{"id":"9"}"#).unwrap();
            let reply = received.refuse(code, "ask again in a minute").reply();
            assert_eq!(text(reply), format!(r#"{{"id":"9","code":{number},"message":"ask again in a minute"}}"#));
        }
    }

    #[test]
    fn a_refusal_does_not_send_a_long_payload_back() {
        let long = "x".repeat(500_000);
        for payload in [
            format!(r#""{long}""#),
            format!(r#"{{"params":"{long}"}}"#),
            format!(r#"{{"params":{{"step":"{long}"}}}}"#),
            format!(r#"{{"params":{{"step":1,"desc":["{long}"]}}}}"#),
        ] {
            let refusal = Received::<ProgressReport>::read(payload.as_bytes()).unwrap_err();
            assert!(refusal.reply().len() < 500, "{}", refusal.message);
        }
    }

    #[test]
    fn firmware_is_offered_by_a_command_and_listed_on_demand() {
        let firmware = Firmware {
            version: "2.0",
            sign_method: "md5",
            sign: "d41d8cd98f00b204e9800998ecf8427e",
            file_url: "https://ota.example/i/1?e=2&s=3",
            file_size: 603_696_942,
        };
        let shown = r#"{"version":"2.0","signMethod":"md5","sign":"d41d8cd98f00b204e9800998ecf8427e","fileUrl":"https://ota.example/i/1?e=2&s=3","fileSize":603696942}"#;
        assert_eq!(
            text(upgrade("17", &firmware)),
            format!(r#"{{"id":"17","version":"1.0","method":"ota.device.upgrade","params":{shown}}}"#)
        );
        let received = Received::<GetVersion>::read(br#"{"id":"9","params":{}}"#).unwrap();
        assert_eq!(text(received.reply_with(&[firmware])), format!(r#"{{"id":"9","code":200,"data":[{shown}]}}"#));
        assert_eq!(text(received.reply_with(&[])), r#"{"id":"9","code":200,"data":[]}"#);
    }

    #[test]
    fn the_answer_to_an_offer_is_read_as_each_library_writes_it() {
        for (payload, id, code, accepted) in [
            (r#"{"code":200,"id":"17","data":""}"#, Some("17"), 200, true),
            (r#"{"id": "17", "code": 0, "data": "", "message": ""}"#, Some("17"), 0, true),
            (r#"{"id":17}"#, Some("17"), 0, true),
            (r#"{"id":"17","code":"1101","data":{},"message":"no handler"}"#, Some("17"), 1101, false),
            (r#"{"code":2001}"#, None, 2001, false),
        ] {
            let reply = UpgradeReply::read(payload.as_bytes()).unwrap();
            assert_eq!((reply.id.as_deref(), reply.code, reply.accepted()), (id, code, accepted), "{payload}");
        }
        let reply = UpgradeReply::read(br#"{"id":"17","code":1102,"message":"flash busy"}"#).unwrap();
        assert_eq!(reply.message.as_deref(), Some("flash busy"));
        for payload in ["", "[]", "7", r#"{"code":"x"}"#, r#"{"id":[]}"#] {
            assert!(UpgradeReply::read(payload.as_bytes()).is_err(), "{payload}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_or_passed_over_but_not_followed() {
        let deep = "[".repeat(200_000);
        let closed = format!("{deep}{}", "]".repeat(200_000));
        assert_eq!(read::<Inform>(&deep).unwrap_err().0, 460);
        for payload in [format!(r#"{{"params":{closed}}}"#), format!(r#"{{"params":{{"version":{closed}}}}}"#)] {
            assert_eq!(read::<Inform>(&payload).unwrap_err().0, 460);
        }
        let beside = format!(r#"{{"x":{closed},"id":{closed},"params":{{"version":"1","y":{closed}}}}}"#);
        assert_eq!(read(&beside), Ok(Inform { version: "1".to_owned() }));
    }

    fn read_all(payload: &[u8]) {
        let _ = Received::<Inform>::read(payload).map_err(|refusal| refusal.reply());
        let _ = Received::<ProgressReport>::read(payload).map(|received| received.params.meaning());
        let _ = Received::<GetVersion>::read(payload).map(|received| received.reply());
        let _ = Received::<Request>::read(payload).map_err(|refusal| refusal.reply());
        let _ = UpgradeReply::read(payload);
    }

    proptest! {
        #[test]
        fn no_payload_makes_reading_fail(payload: Vec<u8>, text: String, value in r#"[-+0-9.eE"\\u{}\[\],:a-f ]{0,30}"#) {
            read_all(&payload);
            read_all(text.as_bytes());
            read_all(format!(r#"{{"id":{value},"code":{value},"params":{{"version":{value},"step":{value},"desc":{value}}}}}"#).as_bytes());
        }

        #[test]
        fn a_reply_is_json_whatever_was_asked(payload: Vec<u8>, id in r#"[-0-9.eE"\\u{}a-f ]{0,20}"#) {
            for payload in [payload, format!(r#"{{"id":{id}}}"#).into_bytes()] {
                let reply = match Received::<Inform>::read(&payload) {
                    Ok(received) => received.reply(),
                    Err(refusal) => refusal.reply(),
                };
                prop_assert!(serde_json::from_slice::<de::IgnoredAny>(&reply).is_ok());
            }
        }
    }
}
