//! EnOS: connect-service v2.1 (jobs, firmware, devices) and the token service before it.
//!
//! - [`token`]: an application's key and secret → an access token; [`access`], [`signature`]: who calls, and whether it was really they;
//! - [`status`]: error class → code; [`envelope`]: what every answer is wrapped in; [`page`], [`text`]: pages, and names in several languages;
//! - [`firmware`], [`firmware_create`], [`firmware_metadata`], [`multipart`]: firmware;
//! - [`jobs`], [`job_decode`], [`job_scope`], [`job_schedule`], [`job_encode`]: jobs, which are tasks of the engine; [`job_tasks`]: their
//!   tasks, which are upgrades of the engine;
//! - [`search`], [`job_search`], [`task_search`], [`device_search`]: what is found by [`expression`]s, page by page;
//! - [`memory`]: what is known of applications, uploads and searches between calls.
//!
//! Every action is taken by GET and by POST: the platform's pages and its samples differ in which. What is refused is told by `code` in a
//! reply with HTTP 200, because the platform's own client reads no body of another status; only where coming back later helps (overload,
//! a full disk) the HTTP status tells it too. `docs/enos.md` tells the choices.

mod access;
pub(crate) mod device;
mod device_search;
mod envelope;
mod expression;
mod expression_reader;
mod firmware;
mod firmware_create;
mod firmware_metadata;
mod job_decode;
mod job_encode;
mod job_schedule;
mod job_scope;
mod job_search;
mod job_tasks;
mod jobs;
mod memory;
mod multipart;
mod page;
mod pattern;
pub(crate) mod readers;
mod search;
mod signature;
mod status;
mod task_search;
mod text;
pub(crate) mod token;

pub use memory::Memory;

use crate::app::App;
use crate::auth::Caller;
use crate::dialect::common::decode::from_json;
use crate::dialect::common::lenient::Object;
use crate::dialect::common::status::Status;
use crate::http::{Query, Reply, Request, read_body};
use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, Method};
use bytes::Bytes;
use page::Pagination;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluicegate::model::Timestamp;
use status::Failure;
use std::net::IpAddr;
use std::sync::Arc;

/// One call of an action, its caller known and let in.
struct Call {
    app: Arc<App>,
    caller: Caller,
    /// Of the query's `orgId`; the caller may act in it.
    organization: Arc<str>,
    parameters: Parameters,
    /// Whole; empty where the call has none, and for a multipart body.
    body: Bytes,
    /// Where the call came from.
    address: IpAddr,
    now: Timestamp,
}

impl Call {
    /// The body as a JSON object; no body and `null` are an empty object.
    fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let body = match self.body.trim_ascii() {
            b"" | b"null" => b"{}",
            body => body,
        };
        from_json(body).map(|Object(read)| read).map_err(Failure::invalid)
    }

    /// What is found by an id and isn't of a product that the caller opens, is as good as not there.
    fn opens(&self, product_id: &str) -> bool {
        self.caller.opens_product(product_id)
    }
}

/// The query, decoded. The first of a repeated key counts.
#[derive(Clone, Debug, Default)]
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn read(request: &Request) -> Result<Self, Failure> {
        let query = Query::parse(request.uri().query()).map_err(|error| Failure::invalid(format!("the query: {error}")))?;
        Ok(Self(query.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    }

    /// An empty value is as good as none.
    fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    fn required(&self, key: &str) -> Result<&str, Failure> {
        self.get(key).ok_or_else(|| Failure::invalid(format!("{key} is required in the query, and is missing or empty; name it")))
    }
}

/// A request of which nothing came, through no fault of its own.
pub(crate) fn refused(status: Status, message: String) -> Reply {
    envelope::failure(&Failure::ours(status, message))
}

/// What an action answers when all went well.
#[derive(Debug)]
struct Answer {
    /// JSON, written already.
    data: Vec<u8>,
    pagination: Option<Pagination>,
}

impl Answer {
    /// `"data":null`, for actions that only do something.
    fn done() -> Self {
        Self { data: b"null".to_vec(), pagination: None }
    }

    fn data(value: &impl Serialize) -> Result<Self, Failure> {
        let data = serde_json::to_vec(value).map_err(|error| {
            tracing::error!(%error, "an answer could not be written as JSON");
            Failure::internal("the answer could not be written")
        })?;
        Ok(Self { data, pagination: None })
    }

    /// One page of a search.
    fn page(rows: &impl Serialize, pagination: Pagination) -> Result<Self, Failure> {
        Ok(Self { pagination: Some(pagination), ..Self::data(rows)? })
    }
}

type Answered = Result<Answer, Failure>;

pub async fn handle(app: &Arc<App>, request: Request) -> Reply {
    let path = request.uri().path().trim_end_matches('/');
    match path {
        TOKEN_GET => token::get(app, request).await,
        TOKEN_REFRESH => token::refresh(app, request).await,
        _ => match route(app, request).await {
            Ok(answer) => envelope::success(&answer),
            Err(failure) => envelope::failure(&failure),
        },
    }
}

async fn route(app: &Arc<App>, request: Request) -> Answered {
    let path = request.uri().path().trim_end_matches('/');
    let resource = [Resource::Jobs, Resource::Firmware].into_iter().find(|resource| resource.path() == path);
    let Some(resource) = resource else { return Err(Failure::no_route(&request)) };
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(Failure::wrong_method(request.method()));
    }
    let parameters = Parameters::read(&request)?;
    let action = Action::read(resource, parameters.get("action"))?;
    let now = app.now();
    let address = request.body().peer().address.ip();
    let caller = access::caller(app, request.headers(), now)?;

    if action == Action::FirmwareCreate {
        // A form is not signed, only what stands in the URL.
        let signed = access::check_signature(app, &caller, request.headers(), &parameters, b"", now).await;
        // Who signed a JSON body learns that a form is needed, rather than look for the fault in the signature.
        let signed = signed.or_else(|failure| {
            if is_multipart(request.headers()) { Err(failure) } else { firmware_create::check_form(request.headers()) }
        });
        let begun = signed.and_then(|()| Call::begin(app, caller, parameters, Bytes::new(), address, action, now));
        return match begun {
            Ok(call) => firmware_create::create(&call, request).await,
            Err(failure) => {
                multipart::drain(request.into_body()).await;
                Err(failure)
            }
        };
    }
    let (parts, body) = read_body(request, app.config.limits.body_bytes_max).await?;
    let signed: &[u8] = if is_multipart(&parts.headers) { b"" } else { &body };
    access::check_signature(app, &caller, &parts.headers, &parameters, signed, now).await?;
    let call = Call::begin(app, caller, parameters, body, address, action, now)?;
    match action {
        // Taken above, its body unread.
        Action::FirmwareCreate => Err(Failure::internal("a firmware's file was read whole")),
        Action::FirmwareGet => firmware::get(&call).await,
        Action::FirmwareDelete => firmware::delete(&call).await,
        Action::FirmwareSearch => firmware::search(&call).await,
        Action::FirmwareVersions => firmware::list_versions(&call).await,
        Action::DeviceSearch => device_search::search(&call).await,
        Action::JobCreate => jobs::create(&call).await,
        Action::JobGet => jobs::get(&call).await,
        Action::JobSearch => job_search::search(&call).await,
        Action::JobStart => jobs::start(&call).await,
        Action::JobStop => jobs::stop(&call).await,
        Action::JobDelete => jobs::delete(&call).await,
        Action::TaskSearch => task_search::search(&call).await,
        Action::TaskCancel => job_tasks::cancel(&call).await,
        Action::TaskRetry => job_tasks::retry(&call).await,
    }
}

impl Call {
    /// Lets the caller in, or not.
    fn begin(
        app: &Arc<App>,
        caller: Caller,
        parameters: Parameters,
        body: Bytes,
        address: IpAddr,
        action: Action,
        now: Timestamp,
    ) -> Result<Self, Failure> {
        access::may(&caller, action.changes())?;
        app.fair_use.call(&caller)?;
        let organization = access::organization(app, &caller, parameters.required("orgId")?)?;
        Ok(Self { app: Arc::clone(app), caller, organization, parameters, body, address, now })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Jobs,
    Firmware,
}

impl Resource {
    const fn path(self) -> &'static str {
        match self {
            Self::Jobs => "/connect-service/v2.1/ota-jobs",
            Self::Firmware => "/connect-service/v2.1/ota-firmwares",
        }
    }
}

const TOKEN_GET: &str = "/apim-token-service/v2.0/token/get";
const TOKEN_REFRESH: &str = "/apim-token-service/v2.0/token/refresh";

/// Every call by method and path; of an action with the part of the query that names it. Actions are taken by GET, too.
pub(crate) fn routes() -> impl Iterator<Item = (&'static str, String)> {
    let tokens = [TOKEN_GET, TOKEN_REFRESH].map(str::to_owned);
    let actions = ACTIONS.iter().map(|(resource, name, _)| format!("{}?action={name}", resource.path()));
    tokens.into_iter().chain(actions).map(|path| ("POST", path))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    FirmwareCreate,
    FirmwareGet,
    FirmwareDelete,
    FirmwareSearch,
    FirmwareVersions,
    DeviceSearch,
    JobCreate,
    JobGet,
    JobSearch,
    JobStart,
    JobStop,
    JobDelete,
    TaskSearch,
    TaskCancel,
    TaskRetry,
}

/// Each action by the name that `action` has in the query.
const ACTIONS: &[(Resource, &str, Action)] = &[
    (Resource::Jobs, "create", Action::JobCreate),
    (Resource::Jobs, "get", Action::JobGet),
    (Resource::Jobs, "search", Action::JobSearch),
    (Resource::Jobs, "start", Action::JobStart),
    (Resource::Jobs, "stop", Action::JobStop),
    (Resource::Jobs, "delete", Action::JobDelete),
    (Resource::Jobs, "searchTask", Action::TaskSearch),
    (Resource::Jobs, "cancelTask", Action::TaskCancel),
    (Resource::Jobs, "retryTask", Action::TaskRetry),
    (Resource::Firmware, "create", Action::FirmwareCreate),
    (Resource::Firmware, "get", Action::FirmwareGet),
    (Resource::Firmware, "delete", Action::FirmwareDelete),
    (Resource::Firmware, "search", Action::FirmwareSearch),
    (Resource::Firmware, "listVersion", Action::FirmwareVersions),
    (Resource::Firmware, "searchDeviceUpgrade", Action::DeviceSearch),
];

impl Action {
    fn read(resource: Resource, name: Option<&str>) -> Result<Self, Failure> {
        let of_resource = || ACTIONS.iter().copied().filter(|(of, ..)| *of == resource);
        let found = of_resource().find(|(_, known, _)| Some(*known) == name);
        found.map(|(_, _, action)| action).ok_or_else(|| {
            let known: Vec<&str> = of_resource().map(|(_, known, _)| known).collect();
            let got: String = name.unwrap_or("nothing").chars().take(40).collect();
            Failure::invalid(format!("action must be one of {}, got {got}", known.join(", ")))
        })
    }

    /// Whether it needs more than to look.
    fn changes(self) -> bool {
        match self {
            Self::FirmwareCreate | Self::FirmwareDelete => true,
            Self::JobCreate | Self::JobStart | Self::JobStop | Self::JobDelete | Self::TaskCancel | Self::TaskRetry => true,
            Self::FirmwareGet | Self::FirmwareSearch | Self::FirmwareVersions | Self::DeviceSearch => false,
            Self::JobGet | Self::JobSearch | Self::TaskSearch => false,
        }
    }
}

fn is_multipart(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.trim_start().get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/"))
}
