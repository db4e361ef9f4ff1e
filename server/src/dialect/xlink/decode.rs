//! Wire → what is wanted: every body of this platform, checked field by field.
//!
//! Lenient in: numbers may be numeric texts, unknown fields are ignored, `null` is absent. The first field that is missing or out of
//! its range decides the refusal. Versions are 32-bit integers here and decimal texts in the engine; device ids likewise.

use super::scalar::{Scalar, required};
use super::status::{Code, Failure};
use serde::Deserialize;
use sluicegate::model::{Component, TaskMode};

const NAME_CHARS_MAX: usize = 32;
const DESCRIPTION_CHARS_MAX: usize = 250;
const MODEL_CHARS_MAX: usize = 20;
/// The platform says 250; our own signed links have up to 255, which still fits the 256 bytes that devices set aside for it.
const URL_BYTES_MAX: usize = 255;
const MD5_CHARS_MAX: usize = 64;
const DATE_CHARS_MAX: usize = 64;
const ID_CHARS_MAX: usize = 128;
const TOKEN_CHARS_MAX: usize = 256;
const INT32_MAX: i64 = i32::MAX as i64;
/// The largest size that every JSON reader can hold exactly.
const SIZE_MAX: i64 = (1 << 53) - 1;
/// Without a limit the GET lists give everything, as their clients expect, up to here.
pub(super) const ROWS_MAX: usize = 1_000;
const POST_LIST_ROWS_DEFAULT: usize = 10;

const WIFI: u16 = 1;
const SUB_DEVICE: u16 = 3;

/// Reads a body that must be one JSON object.
fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    // A derived reader would take an array for a row of fields.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Failure::invalid("the body must be a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| Failure::invalid(format!("the body is not the JSON expected: {error}")))
}

/// A file as a caller describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileNamed {
    pub(super) url: String,
    pub(super) md5: String,
    pub(super) size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CreateTask {
    pub(super) product_id: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) component: Component,
    pub(super) mode: TaskMode,
    pub(super) from_version: String,
    pub(super) from_file: FileNamed,
    pub(super) target_version: String,
    pub(super) target_file: FileNamed,
    pub(super) maximum_concurrency: Option<u32>,
}

pub(super) fn create_task(body: &[u8]) -> Result<CreateTask, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow)]
        product_id: Scalar<'a>,
        #[serde(borrow)]
        name: Scalar<'a>,
        #[serde(borrow)]
        description: Scalar<'a>,
        #[serde(borrow)]
        from_version: Scalar<'a>,
        #[serde(borrow)]
        from_version_url: Scalar<'a>,
        #[serde(borrow)]
        from_version_md5: Scalar<'a>,
        #[serde(borrow)]
        from_version_size: Scalar<'a>,
        #[serde(borrow)]
        target_version: Scalar<'a>,
        #[serde(borrow)]
        target_version_url: Scalar<'a>,
        #[serde(borrow)]
        target_version_md5: Scalar<'a>,
        #[serde(borrow)]
        target_version_size: Scalar<'a>,
        #[serde(borrow, rename = "type")]
        component_type: Scalar<'a>,
        #[serde(borrow)]
        identify: Scalar<'a>,
        #[serde(borrow)]
        task_type: Scalar<'a>,
        /// Not the platform's: how many devices may upgrade at once.
        #[serde(borrow)]
        maximum_concurrency: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    let created = CreateTask {
        product_id: name_of("product_id", &wire.product_id)?,
        name: required("name", wire.name.text_within("name", NAME_CHARS_MAX)?)?,
        description: required("description", wire.description.text_within("description", DESCRIPTION_CHARS_MAX)?)?,
        from_version: version("from_version", &wire.from_version)?,
        from_file: FileNamed {
            url: url("from_version_url", &wire.from_version_url)?,
            md5: required("from_version_md5", wire.from_version_md5.text_within("from_version_md5", MD5_CHARS_MAX)?)?,
            size: size("from_version_size", &wire.from_version_size)?,
        },
        target_version: version("target_version", &wire.target_version)?,
        target_file: FileNamed {
            url: url("target_version_url", &wire.target_version_url)?,
            md5: required("target_version_md5", wire.target_version_md5.text_within("target_version_md5", MD5_CHARS_MAX)?)?,
            size: size("target_version_size", &wire.target_version_size)?,
        },
        component: component(&wire.component_type, &wire.identify, Code::TaskTypeUnknown)?,
        mode: match wire.task_type.integer("task_type")? {
            None | Some(0) => TaskMode::Automatic,
            Some(1) => TaskMode::Manual,
            Some(other) => {
                return Err(Failure::new(
                    Code::TaskTypeUnknown,
                    format!("task_type must be 0 (automatic) or 1 (manual), got {other}"),
                ));
            }
        },
        maximum_concurrency: wire
            .maximum_concurrency
            .integer_in("maximum_concurrency", 1..=INT32_MAX)?
            .map(|maximum| maximum as u32),
    };
    if created.from_version == created.target_version {
        return Err(Failure::invalid(format!("target_version must differ from from_version, both are {}", created.target_version)));
    }
    Ok(created)
}

/// Which task of which product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TaskNamed {
    pub(super) product_id: String,
    pub(super) task_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetTaskStatus {
    pub(super) task: TaskNamed,
    pub(super) started: bool,
}

pub(super) fn set_task_status(body: &[u8]) -> Result<SetTaskStatus, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow)]
        product_id: Scalar<'a>,
        #[serde(borrow)]
        upgrade_task_id: Scalar<'a>,
        #[serde(borrow)]
        status: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    let task = TaskNamed {
        product_id: name_of("product_id", &wire.product_id)?,
        task_id: name_of("upgrade_task_id", &wire.upgrade_task_id)?,
    };
    let started = match required("status", wire.status.integer("status")?)? {
        0 => false,
        1 => true,
        other => {
            return Err(Failure::new(Code::TaskStatusUnknown, format!("status must be 0 (stopped) or 1 (started), got {other}")));
        }
    };
    Ok(SetTaskStatus { task, started })
}

pub(super) fn delete_task(body: &[u8]) -> Result<TaskNamed, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow)]
        id: Scalar<'a>,
        #[serde(borrow)]
        product_id: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    Ok(TaskNamed { task_id: name_of("id", &wire.id)?, product_id: name_of("product_id", &wire.product_id)? })
}

/// Which part of a list, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) offset: usize,
    pub(super) limit: usize,
    pub(super) component_type: Option<u16>,
}

/// A list asked for by query: everything, unless it says otherwise.
pub(super) fn query_window(offset: Option<&str>, limit: Option<&str>) -> Result<Window, Failure> {
    Ok(Window {
        offset: rows("offset", &in_query(offset), 0)?,
        limit: rows("limit", &in_query(limit), ROWS_MAX)?.min(ROWS_MAX),
        component_type: None,
    })
}

/// A list asked for by body: the product, where the body names it, and the window. `unknown` is the code for a type that isn't one.
pub(super) fn list(body: &[u8], unknown: Code) -> Result<(Option<String>, Window), Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow)]
        product_id: Scalar<'a>,
        #[serde(borrow)]
        offset: Scalar<'a>,
        #[serde(borrow)]
        limit: Scalar<'a>,
        #[serde(borrow, rename = "type")]
        component_type: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    let window = Window {
        offset: rows("offset", &wire.offset, 0)?,
        limit: rows("limit", &wire.limit, POST_LIST_ROWS_DEFAULT)?.min(ROWS_MAX),
        component_type: component_type(&wire.component_type, unknown)?,
    };
    Ok((wire.product_id.text_within("product_id", ID_CHARS_MAX)?, window))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckAsked {
    pub(super) product_id: String,
    pub(super) component: Component,
    pub(super) version: String,
}

/// The body's `device_id` is not read: the path decides, and many devices leave it out.
pub(super) fn check(body: &[u8]) -> Result<CheckAsked, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow)]
        product_id: Scalar<'a>,
        #[serde(borrow, rename = "type")]
        component_type: Scalar<'a>,
        #[serde(borrow)]
        current_version: Scalar<'a>,
        #[serde(borrow)]
        identify: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    Ok(CheckAsked {
        product_id: name_of("product_id", &wire.product_id)?,
        version: version("current_version", &wire.current_version)?,
        component: component(&wire.component_type, &wire.identify, Code::TaskTypeUnknown)?,
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) component: Component,
    pub(super) model: String,
    pub(super) last_version: String,
    pub(super) current_version: String,
    pub(super) succeeded: bool,
    pub(super) description: Option<String>,
    pub(super) start_date: Option<String>,
    pub(super) end_date: Option<String>,
}

pub(super) fn report(body: &[u8]) -> Result<Reported, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow, rename = "type")]
        component_type: Scalar<'a>,
        #[serde(borrow, rename = "mod")]
        model: Scalar<'a>,
        #[serde(borrow)]
        identify: Scalar<'a>,
        #[serde(borrow)]
        last_version: Scalar<'a>,
        #[serde(borrow)]
        current_version: Scalar<'a>,
        #[serde(borrow)]
        result: Scalar<'a>,
        #[serde(borrow)]
        desc: Scalar<'a>,
        #[serde(borrow)]
        start_date: Scalar<'a>,
        #[serde(borrow)]
        end_date: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    Ok(Reported {
        component: component(&wire.component_type, &wire.identify, Code::TaskTypeUnknown)?,
        model: required("mod", wire.model.text_within("mod", ID_CHARS_MAX)?)?,
        last_version: version("last_version", &wire.last_version)?,
        current_version: version("current_version", &wire.current_version)?,
        succeeded: match required("result", wire.result.integer("result")?)? {
            0 => true,
            1 => false,
            other => return Err(Failure::invalid(format!("result must be 0 (succeeded) or 1 (failed), got {other}"))),
        },
        // A result must not be lost because the device had much to say: the rest is cut off.
        description: wire.desc.text("desc")?.map(|text| text.chars().take(DESCRIPTION_CHARS_MAX).collect()),
        start_date: wire.start_date.text_within("start_date", DATE_CHARS_MAX)?,
        end_date: wire.end_date.text_within("end_date", DATE_CHARS_MAX)?,
    })
}

/// A user asks about a device, or wants it upgraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceAsked {
    pub(super) product_id: String,
    pub(super) device_id: String,
    pub(super) component: Component,
}

pub(super) fn device_asked(body: &[u8]) -> Result<DeviceAsked, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow)]
        product_id: Scalar<'a>,
        #[serde(borrow)]
        device_id: Scalar<'a>,
        #[serde(borrow, rename = "type")]
        component_type: Scalar<'a>,
        #[serde(borrow)]
        identify: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    Ok(DeviceAsked {
        product_id: name_of("product_id", &wire.product_id)?,
        device_id: required("device_id", wire.device_id.integer_in("device_id", 1..=INT32_MAX)?)?.to_string(),
        component: component(&wire.component_type, &wire.identify, Code::TaskTypeUnknown)?,
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FirmwareWritten {
    pub(super) model: String,
    pub(super) version: String,
    pub(super) file: FileNamed,
    pub(super) description: String,
    pub(super) release_date: Option<String>,
    pub(super) is_release: bool,
    /// Absent in a change that leaves it as it is.
    pub(super) component_type: Option<u16>,
    pub(super) identify: Option<u32>,
}

pub(super) fn firmware(body: &[u8]) -> Result<FirmwareWritten, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow, rename = "mod")]
        model: Scalar<'a>,
        #[serde(borrow)]
        version: Scalar<'a>,
        #[serde(borrow)]
        file_url: Scalar<'a>,
        #[serde(borrow)]
        file_md5: Scalar<'a>,
        #[serde(borrow)]
        file_size: Scalar<'a>,
        #[serde(borrow)]
        description: Scalar<'a>,
        #[serde(borrow)]
        release_date: Scalar<'a>,
        #[serde(borrow)]
        is_release: Scalar<'a>,
        #[serde(borrow, rename = "type")]
        component_type: Scalar<'a>,
        #[serde(borrow)]
        identify: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    Ok(FirmwareWritten {
        model: required("mod", wire.model.text_within("mod", MODEL_CHARS_MAX)?)?,
        version: version("version", &wire.version)?,
        file: FileNamed {
            url: url("file_url", &wire.file_url)?,
            md5: required("file_md5", wire.file_md5.text_within("file_md5", MD5_CHARS_MAX)?)?,
            size: size("file_size", &wire.file_size)?,
        },
        description: required("description", wire.description.text_within("description", DESCRIPTION_CHARS_MAX)?)?,
        release_date: wire.release_date.text_within("release_date", DATE_CHARS_MAX)?,
        is_release: wire.is_release.boolean("is_release")?.unwrap_or(false),
        component_type: component_type(&wire.component_type, Code::FirmwareTypeUnknown)?,
        identify: identify(&wire.identify)?,
    })
}

pub(super) struct AppLogin {
    pub(super) id: String,
    pub(super) secret: String,
}

pub(super) fn app_login(body: &[u8]) -> Result<AppLogin, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow)]
        id: Scalar<'a>,
        #[serde(borrow)]
        secret: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    Ok(AppLogin { id: name_of("id", &wire.id)?, secret: required("secret", wire.secret.text_within("secret", TOKEN_CHARS_MAX)?)? })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Activation {
    pub(super) mac: Mac,
    pub(super) mcu_model: Option<String>,
    pub(super) mcu_version: Option<String>,
    pub(super) firmware_model: Option<String>,
    pub(super) firmware_version: Option<String>,
    pub(super) active_code: String,
}

pub(super) fn activation(body: &[u8]) -> Result<Activation, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow)]
        mac: Scalar<'a>,
        #[serde(borrow)]
        mcu_mod: Scalar<'a>,
        #[serde(borrow)]
        mcu_version: Scalar<'a>,
        #[serde(borrow)]
        firmware_mod: Scalar<'a>,
        #[serde(borrow)]
        firmware_version: Scalar<'a>,
        #[serde(borrow)]
        active_code: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    let version =
        |field: &str, value: &Scalar<'_>| Ok::<_, Failure>(value.integer_in(field, 0..=INT32_MAX)?.map(|n| n.to_string()));
    Ok(Activation {
        mac: Mac::read(&wire.mac)?,
        mcu_model: wire.mcu_mod.text_within("mcu_mod", ID_CHARS_MAX)?,
        mcu_version: version("mcu_version", &wire.mcu_version)?,
        firmware_model: wire.firmware_mod.text_within("firmware_mod", ID_CHARS_MAX)?,
        firmware_version: version("firmware_version", &wire.firmware_version)?,
        active_code: required("active_code", wire.active_code.text_within("active_code", TOKEN_CHARS_MAX)?)?,
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceLogin {
    pub(super) product_id: String,
    pub(super) mac: Mac,
    pub(super) authorize_code: String,
}

pub(super) fn device_login(body: &[u8]) -> Result<DeviceLogin, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow)]
        product_id: Scalar<'a>,
        #[serde(borrow)]
        mac: Scalar<'a>,
        #[serde(borrow)]
        authorize_code: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    Ok(DeviceLogin {
        product_id: name_of("product_id", &wire.product_id)?,
        mac: Mac::read(&wire.mac)?,
        authorize_code: required("authorize_code", wire.authorize_code.text_within("authorize_code", TOKEN_CHARS_MAX)?)?,
    })
}

pub(super) fn device_refresh(body: &[u8]) -> Result<String, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire<'a> {
        #[serde(borrow)]
        refresh_token: Scalar<'a>,
    }
    let wire: Wire<'_> = object(body)?;
    required("refresh_token", wire.refresh_token.text_within("refresh_token", TOKEN_CHARS_MAX)?)
}

/// A hardware address: 12 hexadecimal digits in upper case. Separators that people put in are taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mac(String);

impl Mac {
    fn read(value: &Scalar<'_>) -> Result<Self, Failure> {
        let text = required("mac", value.text("mac")?)?;
        let digits: String =
            text.trim().chars().filter(|c| !matches!(c, ':' | '-' | '.')).map(|c| c.to_ascii_uppercase()).take(13).collect();
        if digits.len() != 12 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            let got: String = text.chars().take(40).collect();
            return Err(Failure::invalid(format!("mac must have 12 hexadecimal digits, got {got:?}")));
        }
        Ok(Self(digits))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The device that a path names: a positive 32-bit integer, which the engine knows by its decimal text.
pub(super) fn device_id_in_path(text: &str) -> Result<String, Failure> {
    let number: Option<i64> = text.parse().ok();
    match number {
        Some(number @ 1..=INT32_MAX) => Ok(number.to_string()),
        _ => {
            let got: String = text.chars().take(40).collect();
            Err(Failure::invalid(format!("the device id in the path must be from 1 to {INT32_MAX}, got {got:?}")))
        }
    }
}

fn name_of(field: &str, value: &Scalar<'_>) -> Result<String, Failure> {
    required(field, value.text_within(field, ID_CHARS_MAX)?)
}

fn version(field: &str, value: &Scalar<'_>) -> Result<String, Failure> {
    Ok(required(field, value.integer_in(field, 0..=INT32_MAX)?)?.to_string())
}

fn size(field: &str, value: &Scalar<'_>) -> Result<u64, Failure> {
    Ok(required(field, value.integer_in(field, 0..=SIZE_MAX)?)?.unsigned_abs())
}

fn rows(field: &str, value: &Scalar<'_>, default: usize) -> Result<usize, Failure> {
    Ok(value.integer_in(field, 0..=INT32_MAX)?.map_or(default, |rows| rows as usize))
}

fn component_type(value: &Scalar<'_>, unknown: Code) -> Result<Option<u16>, Failure> {
    match value.integer("type")? {
        None => Ok(None),
        Some(number) if (i64::from(WIFI)..=i64::from(SUB_DEVICE)).contains(&number) => Ok(Some(number as u16)),
        Some(other) => Err(Failure::new(unknown, format!("type must be 1 (wifi), 2 (mcu) or 3 (sub-device), got {other}"))),
    }
}

fn identify(value: &Scalar<'_>) -> Result<Option<u32>, Failure> {
    Ok(value.integer_in("identify", 0..=INT32_MAX)?.map(|identify| identify as u32))
}

/// Wifi and 0 where the caller doesn't say.
fn component(component_type: &Scalar<'_>, identify: &Scalar<'_>, unknown: Code) -> Result<Component, Failure> {
    Ok(component_of(self::component_type(component_type, unknown)?, self::identify(identify)?))
}

/// A component that a query names: the main one where it doesn't.
pub(super) fn component_in_query(component_type: Option<&str>, identify: Option<&str>) -> Result<Component, Failure> {
    component(&in_query(component_type), &in_query(identify), Code::FirmwareTypeUnknown)
}

fn in_query(value: Option<&str>) -> Scalar<'_> {
    value.map_or(Scalar::Absent, |text| Scalar::Text(text.into()))
}

/// There is one wifi processor in a device: its `identify` is 0 whatever the caller says.
pub(super) fn component_of(component_type: Option<u16>, identify: Option<u32>) -> Component {
    let component_type = component_type.unwrap_or(WIFI);
    let identify = if component_type == WIFI { 0 } else { identify.unwrap_or(0) };
    Component { component_type, identify }
}

/// Devices copy a URL as it stands on the wire into 256 bytes, without undoing JSON's escapes.
fn url(field: &str, text: &Scalar<'_>) -> Result<String, Failure> {
    let text = required(field, text.text_within(field, URL_BYTES_MAX)?)?;
    if text.len() > URL_BYTES_MAX {
        return Err(Failure::invalid(format!("{field} may have {URL_BYTES_MAX} bytes at most, got {}; shorten it", text.len())));
    }
    match text.chars().find(|character| matches!(character, '"' | '\\') || character.is_control()) {
        Some(character) => {
            Err(Failure::invalid(format!("{field} holds {character:?}, which devices can't read; encode it with a percent sign")))
        }
        None => Ok(text),
    }
}
