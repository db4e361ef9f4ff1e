//! One organization against another: every call of every platform, as everybody who has no business with it. The calls are those of the
//! server's own tables, so one that is added and has no row in `tenant_rows` fails the test.
//!
//! What is looked for: the call is refused where it has to be; nothing of the victim's stands in the answer but what the caller said itself;
//! and all that the victim can list of its own is the same afterwards. At last its rightful caller makes the very call, and is heard, so
//! that a row is no nonsense that anybody would have been refused for.

use crate::common::fleet::{create_firmware, id_text, token_header, upload};
use crate::common::http::Request;
use crate::common::{Client, Response, TestServer};
use crate::tenant_rows::{About, Aim, Needs, ROWS};
use crate::tenants::{ADMINISTRATOR, Caller, FAN, Kind, NUMBERED, PUMP, Strangers, Victim, server};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, Read};

/// What has to come of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Refused,
    /// It may be answered, with what is the caller's own.
    Own,
    /// The caller may see what is there.
    Seen,
    /// And change it.
    Shared,
}

/// A call as it goes out.
struct Shot {
    dialect: &'static str,
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
}

impl Shot {
    /// `organization`: which one the call names, where it names one; natively only if it isn't the caller's own.
    fn new(dialect: &'static str, method: &'static str, path: &str, aim: &Aim, organization: &str, names_another: bool) -> Self {
        let (product, device, id) = match dialect {
            "xlink" => (NUMBERED, "7", aim.id.as_str()),
            _ => (PUMP, "p-1", aim.id.as_str()),
        };
        let mut path = path.to_owned();
        for (name, text) in [
            ("{product_id}", product),
            ("{device_id}", device),
            ("{workspace}", organization),
            ("{id}", id),
            ("{sha256}", id),
            ("{upload}", id),
        ] {
            path = path.replace(name, text);
        }
        let organization_in_query = match dialect {
            "enos" => Some(("orgId", organization.to_owned())),
            "native" if names_another => Some(("organization", organization.to_owned())),
            _ => None,
        };
        for (key, value) in aim.query.iter().cloned().chain(organization_in_query) {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&format!("{key}={value}"));
        }
        assert!(!path.contains('{'), "{path} names something that the test knows nothing of");
        Self { dialect, method, path, headers: aim.headers.clone(), body: aim.body.clone() }
    }

    /// Adds what tells who calls.
    fn signed(mut self, token: Option<&str>, app_key: &str) -> Self {
        if let Some(token) = token {
            self.headers.push(token_header(self.dialect, token));
        }
        if self.dialect == "huawei" {
            self.headers.push(("app_key", app_key.to_owned()));
        }
        self
    }

    /// All that the caller says.
    fn text(&self) -> String {
        let body = self.body.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        format!("{} {} {:?} {body}", self.method, self.path, self.headers)
    }

    fn request<'a>(&self, client: &'a Client) -> Request<'a> {
        let request = client.request(self.method, &self.path);
        let request = self.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        match &self.body {
            Some(body) => request.body(body),
            None => request,
        }
    }

    #[track_caller]
    fn send(&self, server: &TestServer) -> Response {
        self.request(&server.anonymous()).send()
    }

    fn is_endless(&self) -> bool {
        self.path.starts_with("/api/v1/events")
    }
}

/// Whether a platform's answer is a refusal, as its clients tell.
fn is_refusal(dialect: &str, response: &Response) -> bool {
    let refused_in_body = || {
        let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        ["code", "status"].iter().any(|field| body[field].as_i64().is_some_and(|code| code != 0))
    };
    response.status >= 400 || (matches!(dialect, "enos" | "autel") && refused_in_body())
}

/// Whether the caller got through: what it asked was done, or refused for how things stand alone, which nobody else is told.
fn is_heard(dialect: &str, response: &Response) -> bool {
    let says = |codes: &[&str]| codes.iter().any(|code| response.text().contains(&format!("\"code\":{code}")));
    let is_in_conflict = match dialect {
        // The device isn't connected.
        "autel" => response.status == 200 && response.text().contains("is offline"),
        "enos" => says(&["24604", "24615", "24616", "24620", "24621"]),
        "huawei" => false,
        // Firmware in use and a task of another state have codes of their own.
        "xlink" => says(&["4001142", "4001036"]),
        _ => response.status == 409,
    };
    is_in_conflict || !is_refusal(dialect, response)
}

fn expected(kind: Kind, aim: &Aim, names_victim: bool) -> Expected {
    use Expected::{Own, Refused, Seen, Shared};
    match (kind, aim.needs) {
        (_, Needs::Nothing) => Own,
        (_, Needs::Secret) | (Kind::Nobody, _) => Refused,
        // From elsewhere: whatever it names is of its own organization, where it has any.
        (Kind::ForeignManager | Kind::Namesake | Kind::Foreign | Kind::ForeignDevice, _) if aim.is_by_id => Refused,
        (Kind::ForeignManager | Kind::Namesake | Kind::Foreign, Needs::Look | Needs::Manage) if names_victim => Refused,
        (Kind::ForeignManager | Kind::Namesake, Needs::Report) => Refused,
        (Kind::ForeignManager | Kind::Namesake, _) | (Kind::Foreign, Needs::Look | Needs::Check) => Own,
        (Kind::Foreign, _) => Refused,
        (Kind::ForeignDevice, Needs::Check | Needs::Report) => Own,
        (Kind::ForeignDevice, _) => Refused,
        // Of the same organization.
        (Kind::OtherProduct { .. }, Needs::Image) => Seen,
        (Kind::OtherProduct { manages: false }, Needs::Manage) => Refused,
        (Kind::OtherProduct { .. }, _) => match aim.about {
            About::Product | About::Organization => Refused,
            About::Own => Own,
            About::Shared => Shared,
        },
        (Kind::OtherDevice { may_have_images: true }, Needs::Image) => Seen,
        (Kind::OtherDevice { .. }, _) => Refused,
        (Kind::Onlooker, Needs::Manage | Needs::Report | Needs::Person) => Refused,
        (Kind::Onlooker, Needs::Look | Needs::Check | Needs::Image) => Seen,
    }
}

/// From elsewhere, from another product of the same organization, or from another device of it.
fn side(kind: Kind) -> u8 {
    match kind {
        Kind::Nobody | Kind::ForeignManager | Kind::Foreign | Kind::Namesake | Kind::ForeignDevice => 0,
        Kind::OtherProduct { .. } => 1,
        Kind::OtherDevice { .. } | Kind::Onlooker => 2,
    }
}

/// A shot for each organization that the caller could name.
fn shots(
    dialect: &'static str,
    method: &'static str,
    path: &str,
    aim: &Aim,
    caller: &Caller,
    victim: &Victim,
) -> Vec<(Shot, bool)> {
    let (own, theirs) = (caller.organization.as_str(), victim.organization.as_str());
    let shot = |organization: &str, names_another: bool| {
        let app_key = caller.app.as_deref().filter(|_| !names_another).unwrap_or(organization);
        Shot::new(dialect, method, path, aim, organization, names_another).signed(caller.token.as_deref(), app_key)
    };
    let mut shots = vec![(shot(own, false), false)];
    // Who administers the server may name whichever it likes.
    let may_name_another = !matches!(dialect, "xlink") && own != theirs && caller.name != ADMINISTRATOR;
    if may_name_another {
        shots.push((shot(theirs, true), true));
    }
    shots
}

/// Calls for which an administrator needs to name no organization, so that its token opens what is the victim's by design: it hears of
/// everything that happens, and takes away any token and any application.
const OF_ANY_ORGANIZATION: [&str; 3] =
    ["native GET /api/v1/events", "native DELETE /api/v1/tokens/{id}", "native DELETE /api/v1/apps/{id}"];

#[test]
fn every_call_has_a_row_and_every_row_a_call() {
    let routes = sluicegate_server::testing::routes();
    let calls: BTreeSet<String> = routes.iter().map(|(dialect, method, path)| format!("{dialect} {method} {path}")).collect();
    let rows: BTreeSet<String> = ROWS.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(rows.len(), ROWS.len(), "a row stands there twice");
    let missing: Vec<&String> = calls.difference(&rows).collect();
    assert!(missing.is_empty(), "calls that nobody has tried against another organization; give each a row: {missing:#?}");
    let stale: Vec<&String> = rows.difference(&calls).collect();
    assert!(stale.is_empty(), "rows of calls that aren't there: {stale:#?}");
}

#[test]
fn nobody_reaches_what_is_another_organizations_products_or_devices() {
    let server = server();
    let strangers = Strangers::new(&server);
    let routes = sluicegate_server::testing::routes();
    let mut victims: Vec<Victim> = (0..routes.len()).map(|number| Victim::new(&server, number)).collect();
    for ((_, _, path), victim) in routes.iter().zip(&mut victims) {
        if path.contains("/uploads") {
            victim.begin_upload();
        }
    }
    victims.iter().for_each(Victim::wait_for_expiry);
    let mut made = Made::default();
    let mut wrong = Vec::new();
    for (&(dialect, method, ref path), victim) in routes.iter().zip(&victims) {
        let key = format!("{dialect} {method} {path}");
        let Some((_, row)) = ROWS.iter().find(|(known, _)| *known == key) else { continue };
        let aim = row(victim, false);
        let callers = strangers.callers(victim);
        let mut before = victim.snapshot();
        assert!(
            before.values().all(|seen| seen[0] == 200),
            "something of the victim's isn't there from the beginning: {before:#?}"
        );
        // Looking at everything costs more than trying: those who come from the same side are looked at together.
        for callers in callers.chunk_by(|one, next| side(one.kind) == side(next.kind)) {
            let mut may_change = false;
            for caller in callers {
                if caller.name == ADMINISTRATOR && OF_ANY_ORGANIZATION.contains(&key.as_str()) {
                    continue;
                }
                for (shot, names_victim) in shots(dialect, method, path, &aim, caller, victim) {
                    made.shots += 1;
                    let expected = expected(caller.kind, &aim, names_victim);
                    may_change |= expected == Expected::Shared || (shot.is_endless() && expected != Expected::Refused);
                    if let Err(what) = try_one(&server, &strangers, victim, caller, &shot, expected, &mut made) {
                        wrong.push(format!("{key} by {} ({expected:?}, names the victim: {names_victim}): {what}", caller.name));
                    }
                }
            }
            let after = victim.snapshot();
            let before = std::mem::replace(&mut before, after.clone());
            if may_change {
                continue;
            }
            made.compared += after.len();
            for (what, there) in before.iter().filter(|(what, there)| after[*what] != **there) {
                let names: Vec<&str> = callers.iter().map(|caller| caller.name).collect();
                wrong.push(format!("{key} by one of {names:?} changed {what}: {there} became {}", after[what]));
            }
        }
        if let Err(what) = try_rightly(&server, victim, dialect, method, path, &row(victim, true), &mut made) {
            wrong.push(format!("{key} by its rightful caller: {what}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} calls went wrong:\n{}", wrong.len(), made.shots, wrong.join("\n"));
    // A search for traces that finds none where they are would prove nothing.
    assert!(made.shown > 25, "only {} rightful callers were shown something that is their organization's alone", made.shown);
    println!(
        "{} calls x {} callers: {} shots, {} refused, {} answered with their own, {} allowed to look; {} things compared; {} rightful calls, {} \
         of which showed marks",
        routes.len(),
        strangers.callers(&victims[0]).len(),
        made.shots,
        made.refused,
        made.own,
        made.seen,
        made.compared,
        made.rightful,
        made.shown
    );
}

/// What was done, in figures.
#[derive(Debug, Default)]
struct Made {
    shots: usize,
    refused: usize,
    own: usize,
    seen: usize,
    compared: usize,
    rightful: usize,
    shown: usize,
}

fn try_one(
    server: &TestServer,
    strangers: &Strangers,
    victim: &Victim,
    caller: &Caller,
    shot: &Shot,
    expected: Expected,
    made: &mut Made,
) -> Result<(), String> {
    let answer = if shot.is_endless() && expected != Expected::Refused {
        follow(server, strangers, victim, caller, shot)?
    } else {
        let response = shot.send(server);
        if response.status >= 500 {
            return Err(format!("{} {}", response.status, response.text()));
        }
        if expected == Expected::Refused && is_heard(shot.dialect, &response) {
            return Err(format!("was answered {} {}", response.status, response.text()));
        }
        response.everything()
    };
    match expected {
        Expected::Refused => made.refused += 1,
        Expected::Own => made.own += 1,
        Expected::Seen | Expected::Shared => {
            made.seen += 1;
            return Ok(());
        }
    }
    // What the caller's own organization has beside it bears other marks.
    let traces = victim.traces_in(&answer, &shot.text());
    if traces.is_empty() { Ok(()) } else { Err(format!("was shown {traces:?} in {answer}")) }
}

/// Reads events until one comes that was made after the stream was opened: whatever came before would have come by then.
fn follow(server: &TestServer, strangers: &Strangers, victim: &Victim, caller: &Caller, shot: &Shot) -> Result<String, String> {
    let (status, mut stream) = shot.request(&server.anonymous()).open();
    if status != 200 {
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
        return Err(format!("expected events, was answered {status} {text}"));
    }
    read_until(&mut stream, &strangers.happen(server, victim, caller))
}

/// Reads line by line until `wanted` has come; all that was read.
fn read_until(stream: &mut impl BufRead, wanted: &str) -> Result<String, String> {
    let mut text = String::new();
    while !text.contains(wanted) {
        if stream.read_line(&mut text).map_err(|error| format!("{error} after {text}"))? == 0 {
            return Err(format!("the stream ended after {text}"));
        }
    }
    Ok(text)
}

fn try_rightly(
    server: &TestServer,
    victim: &Victim,
    dialect: &'static str,
    method: &'static str,
    path: &str,
    aim: &Aim,
    made: &mut Made,
) -> Result<(), String> {
    let token = match aim.needs {
        Needs::Nothing | Needs::Secret => None,
        Needs::Look | Needs::Manage if aim.is_of_application => Some(victim.get("app token")),
        Needs::Look | Needs::Manage => Some(victim.get("operator")),
        Needs::Check | Needs::Report | Needs::Person | Needs::Image if dialect == "xlink" => Some(victim.get("numbered device")),
        Needs::Check | Needs::Report | Needs::Person | Needs::Image => Some(victim.get("device")),
    };
    let app_key = if aim.is_of_application { victim.get("app") } else { &victim.organization };
    let shot = Shot::new(dialect, method, path, aim, &victim.organization, false).signed(token, app_key);
    made.rightful += 1;
    if shot.is_endless() {
        let (status, mut stream) = shot.request(&server.anonymous()).open();
        read_until(&mut stream, victim.get("task")).map_err(|error| format!("{status}: {error}"))?;
        made.shown += 1;
        return Ok(());
    }
    let response = shot.send(server);
    if !is_heard(dialect, &response) {
        return Err(format!("was refused: {} {}", response.status, response.text()));
    }
    if !victim.traces_in(&response.everything(), &shot.text()).is_empty() {
        made.shown += 1;
    }
    Ok(())
}

impl Strangers {
    /// Something happens in the caller's own organization, to a product that it opens; returns the id that its event shows.
    #[track_caller]
    fn happen(&self, server: &TestServer, victim: &Victim, caller: &Caller) -> String {
        let operator = if caller.organization == victim.organization {
            victim.operator.clone()
        } else if caller.organization == self.namesake().organization {
            self.namesake().operator.clone()
        } else {
            let wanted = json!({ "role": "operator", "organization": caller.organization });
            server.admin().with_token(&crate::common::fleet::issue_token(&server.admin(), wanted))
        };
        let image = upload(&operator, caller.name.as_bytes());
        let version = format!("of {}", caller.name);
        let firmware = create_firmware(&operator, FAN, &version, image["image"].as_str().unwrap());
        let body = json!({
            "product_id": FAN, "type": 1, "identify": 0, "firmware_id": firmware["id"], "from_versions": ["0.1"],
        });
        id_text(&operator.post("/api/v1/tasks", &body).expect(201).json()["id"])
    }
}
