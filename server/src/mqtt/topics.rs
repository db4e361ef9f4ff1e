//! Names of topics, filters over them, and who may subscribe to which.
//!
//! A filter is granted where it can match nothing but what its owner may read: every level that tells owners apart has to stand in it
//! as it is, and only behind those may it be wild.

use crate::auth::Caller;
use sluicegate::DeviceName;
use sluicegate::model::{Event, Role};
use std::fmt::Write as _;

/// Longer ones are nobody's.
pub(super) const TOPIC_BYTES_MAX: usize = 1_024;
const EVENTS: [&str; 2] = ["sluicegate", "events"];
const TASKS: [&str; 2] = ["sluicegate", "tasks"];

/// Where an event is published.
pub(super) fn of_event(event: &Event) -> String {
    topic(EVENTS, event, event.device_id.as_deref().unwrap_or_default())
}

/// Where an event that is a task's is published, too.
pub(super) fn of_event_in_task(event: &Event) -> Option<String> {
    Some(topic(TASKS, event, &event.task_id?.to_string()))
}

fn topic(kind: [&str; 2], event: &Event, last: &str) -> String {
    let mut topic = kind.join("/");
    for level in [&event.organization, &event.product_id, last] {
        topic.push('/');
        push_level(&mut topic, level);
    }
    topic
}

/// What is published on a broker: everything once, and with `by_task` what is a task's once more.
pub(super) fn of_broker(by_task: bool) -> impl Iterator<Item = String> {
    [EVENTS].into_iter().chain(by_task.then_some(TASKS)).map(|kind| format!("{}/#", kind.join("/")))
}

/// A name as one level of a topic: what would be read as more than a name is written as `%` and two digits.
fn push_level(topic: &mut String, name: &str) {
    if name.is_empty() {
        topic.push('-');
    }
    for character in name.chars() {
        match character {
            '/' | '+' | '#' | '%' | '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    // Writing to a string doesn't fail.
                    let _ = write!(topic, "%{byte:02X}");
                }
            }
            character => topic.push(character),
        }
    }
}

fn level(name: &str) -> String {
    let mut level = String::with_capacity(name.len());
    push_level(&mut level, name);
    level
}

/// Whether a filter is one at all, as the standard has it.
pub(crate) fn is_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > TOPIC_BYTES_MAX || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_wild = level == "+" || (level == "#" && levels.peek().is_none());
        if level.contains(['+', '#']) && !is_wild {
            return false;
        }
    }
    true
}

/// Whether a topic is meant by a filter.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let mut topic = topic.split('/');
    for part in filter.split('/') {
        if part == "#" {
            return true;
        }
        match topic.next() {
            Some(level) if part == "+" || part == level => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

/// Whether `filter` begins with exactly these levels, and goes on.
fn is_below(filter: &str, levels: &[&str]) -> bool {
    let mut parts = filter.split('/');
    levels.iter().all(|level| parts.next() == Some(level)) && parts.next().is_some()
}

/// Whether a device may read what this filter matches: what is said to itself, in any dialect.
pub(super) fn device_may_read(device: &DeviceName, filter: &str) -> bool {
    let (product_id, device_id) = (&*device.product_id, &*device.device_id);
    let is_plain = |name: &str| !name.contains(['/', '+', '#']);
    if !is_plain(product_id) || !is_plain(device_id) {
        return false;
    }
    is_below(filter, &["thing", "product", device_id])
        || is_below(filter, &["sys", "product", device_id])
        || is_below(filter, &["", "sys", product_id, device_id])
}

/// Whether a token that looks or manages may read what this filter matches: the events that its organization and product allow.
pub(super) fn consumer_may_read(caller: &Caller, filter: &str) -> bool {
    let parts: Vec<&str> = filter.split('/').collect();
    if !caller.can_look() || caller.is_bound_to_device() || !matches!(parts.get(..2), Some(kind) if kind == EVENTS || kind == TASKS)
    {
        return false;
    }
    let is_own_organization = caller.role == Role::Admin || parts.get(2).is_some_and(|part| **part == level(&caller.organization));
    let product = parts.get(3).copied().unwrap_or_default();
    let is_own_product = caller.product_id.as_deref().is_none_or(|own| product == level(own));
    is_own_organization && is_own_product
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sluicegate::DeviceRef;
    use sluicegate::model::{EventKind, Timestamp};

    fn caller(role: Role, product_id: Option<&str>, device_id: Option<&str>) -> Caller {
        Caller {
            role,
            organization: "acme".into(),
            product_id: product_id.map(Into::into),
            device_id: device_id.map(Into::into),
            token: None,
            app: None,
        }
    }

    #[test]
    fn an_events_topic_names_its_organization_product_and_device_a_level_each() {
        let event = |product_id: &str, device_id: Option<&str>| Event {
            sequence: 1,
            kind: EventKind::Result,
            at: Timestamp(0),
            organization: "acme".into(),
            product_id: product_id.into(),
            device_id: device_id.map(Into::into),
            task_id: None,
            upgrade_id: None,
            state: None,
            percent: None,
            extra: Default::default(),
        };
        assert_eq!(of_event(&event("lamp", Some("lamp-1"))), "sluicegate/events/acme/lamp/lamp-1");
        assert_eq!(of_event(&event("lamp", None)), "sluicegate/events/acme/lamp/-");
        assert_eq!(of_event(&event("a/b+#%", Some("ä"))), "sluicegate/events/acme/a%2Fb%2B%23%25/ä");
    }

    #[test]
    fn a_filter_matches_level_by_level_as_the_standard_has_it() {
        for (filter, topic, matched) in [
            ("a/b/c", "a/b/c", true),
            ("a/b", "a/b/c", false),
            ("a/b/c", "a/b", false),
            ("a/+/c", "a/b/c", true),
            ("a/+", "a/b/c", false),
            ("a/#", "a/b/c", true),
            ("a/#", "a", true),
            ("#", "a/b", true),
            ("+", "a", true),
            ("+/+", "/a", true),
            ("+", "/a", false),
            ("a/+/#", "a/b", true),
        ] {
            assert_eq!(matches(filter, topic), matched, "{filter} {topic}");
        }
    }

    #[test]
    fn what_is_no_filter_is_told_apart() {
        for filter in ["", "a/#/b", "a#", "a+/b", "#/", "a\0b", "++", &"a".repeat(TOPIC_BYTES_MAX + 1)] {
            assert!(!is_filter(filter), "{filter:?}");
        }
        for filter in ["#", "+", "a/+/#", "/", "//", "a//b", "+/#"] {
            assert!(is_filter(filter), "{filter:?}");
        }
    }

    #[test]
    fn a_device_reads_its_own_topics_and_no_wider() {
        let device = DeviceRef { organization: "o", product_id: "p", device_id: "sn" }.to_owned();
        for filter in [
            "thing/product/sn/services",
            "thing/product/sn/#",
            "thing/product/sn/+",
            "sys/product/sn/status_reply",
            "/sys/p/sn/ota/device/upgrade",
            "/sys/p/sn/#",
        ] {
            assert!(device_may_read(&device, filter), "{filter}");
        }
        for filter in [
            "#",
            "+/+/+/services",
            "thing/#",
            "thing/product/+/services",
            "thing/product/#",
            "thing/product/other/services",
            "thing/product/sn",
            "sys/product/other/#",
            "/sys/p/other/#",
            "/sys/q/sn/#",
            "/sys/+/sn/#",
            "sys/p/sn/#",
            "sluicegate/events/o/p/sn",
            "$share/g/thing/product/sn/services",
        ] {
            assert!(!device_may_read(&device, filter), "{filter}");
        }
        // A name that would be a wildcard opens nothing.
        let wild = DeviceRef { organization: "o", product_id: "+", device_id: "#" }.to_owned();
        assert!(!device_may_read(&wild, "thing/product/#/services") && !device_may_read(&wild, "/sys/+/#/x"));
    }

    #[test]
    fn a_consumer_reads_its_organizations_events_and_a_bound_one_its_products() {
        let operator = caller(Role::Operator, None, None);
        for filter in [
            "sluicegate/tasks/acme/lamp/+",
            "sluicegate/events/acme/#",
            "sluicegate/events/acme/+/+",
            "sluicegate/events/acme/lamp/lamp-1",
        ] {
            assert!(consumer_may_read(&operator, filter), "{filter}");
        }
        for filter in [
            "#",
            "sluicegate/#",
            "sluicegate/events/#",
            "sluicegate/events/+/lamp/+",
            "sluicegate/events/other/#",
            "+/events/acme/#",
        ] {
            assert!(!consumer_may_read(&operator, filter), "{filter}");
        }
        assert!(consumer_may_read(&caller(Role::Admin, None, None), "sluicegate/events/#"));
        let bound = caller(Role::User, Some("lamp"), None);
        assert!(consumer_may_read(&bound, "sluicegate/events/acme/lamp/#"));
        assert!(!consumer_may_read(&bound, "sluicegate/events/acme/+/#") && !consumer_may_read(&bound, "sluicegate/events/acme/#"));
        assert!(!consumer_may_read(&caller(Role::Operator, None, Some("d")), "sluicegate/events/acme/#"));
        assert!(!consumer_may_read(&caller(Role::Device, Some("lamp"), Some("d")), "sluicegate/events/acme/lamp/d"));
    }

    proptest! {
        /// Whatever is granted to a device matches no other device's topics.
        #[test]
        fn nothing_that_is_granted_to_a_device_reaches_another(filter in "[a-c+#/]{0,3}(thing|sys|/sys|sys/product|thing/product)?[a-c+#/]{0,8}") {
            let device = DeviceRef { organization: "o", product_id: "a", device_id: "b" }.to_owned();
            if is_filter(&filter) && device_may_read(&device, &filter) {
                for topic in ["thing/product/c/services", "sys/product/c/status", "/sys/a/c/x", "/sys/c/b/x", "sluicegate/events/o/a/b"] {
                    prop_assert!(!matches(&filter, topic), "{} {}", filter, topic);
                }
            }
        }
    }
}
