//! Topics: `/sys/{product key}/{device key}/ota/device/{name}`, and the same with `_reply` for the answer.

/// What a device publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpTopic {
    /// The version that it runs.
    Inform,
    /// How far an upgrade is, or that it failed.
    Progress,
    /// Asks which firmware there is for it.
    GetVersion,
    /// Asks for an upgrade.
    Request,
    /// Its answer to our `upgrade`. The only one that is never answered.
    UpgradeReply,
}

/// Each by the last level of its topic.
const UP_TOPICS: [(&str, UpTopic); 5] = [
    ("inform", UpTopic::Inform),
    ("progress", UpTopic::Progress),
    ("getversion", UpTopic::GetVersion),
    ("request", UpTopic::Request),
    ("upgrade_reply", UpTopic::UpgradeReply),
];

impl UpTopic {
    /// What a topic is for, its product key and its device key. Who publishes is not checked: that is known only to whoever let the
    /// device in.
    pub(crate) fn read(topic: &str) -> Option<(Self, &str, &str)> {
        let (product_key, rest) = topic.strip_prefix("/sys/")?.split_once('/')?;
        let (device_key, rest) = rest.split_once('/')?;
        let name = rest.strip_prefix("ota/device/")?;
        let (_, topic) = UP_TOPICS.iter().find(|(known, _)| *known == name)?;
        (is_key(product_key) && is_key(device_key)).then_some((*topic, product_key, device_key))
    }
}

/// Where the answer to what came on `topic` goes.
pub(crate) fn reply_topic(topic: &str) -> String {
    format!("{topic}_reply")
}

/// Where a device hears of an upgrade. Both must be keys (see [`is_key`]), else it is another device's topic or none at all.
pub(crate) fn upgrade(product_key: &str, device_key: &str) -> String {
    format!("/sys/{product_key}/{device_key}/ota/device/upgrade")
}

/// What to subscribe to at a broker that isn't ours to hear all devices. One filter a topic: `…/ota/device/+` would bring back every
/// answer and offer that we publish there ourselves.
pub(crate) const fn filters() -> [&'static str; 5] {
    [
        "/sys/+/+/ota/device/inform",
        "/sys/+/+/ota/device/progress",
        "/sys/+/+/ota/device/getversion",
        "/sys/+/+/ota/device/request",
        "/sys/+/+/ota/device/upgrade_reply",
    ]
}

/// Whether a product's or device's key can be one level of a topic, and only that: not empty, no separator, no wildcard, nothing that
/// isn't seen.
pub(crate) fn is_key(text: &str) -> bool {
    !text.is_empty() && !text.contains(|char: char| matches!(char, '/' | '+' | '#') || char.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_topic_of_a_device_is_read_with_its_two_keys() {
        for (topic, read) in [
            ("/sys/p1/d1/ota/device/inform", UpTopic::Inform),
            ("/sys/p1/d1/ota/device/progress", UpTopic::Progress),
            ("/sys/p1/d1/ota/device/getversion", UpTopic::GetVersion),
            ("/sys/p1/d1/ota/device/request", UpTopic::Request),
            ("/sys/p1/d1/ota/device/upgrade_reply", UpTopic::UpgradeReply),
        ] {
            assert_eq!(UpTopic::read(topic), Some((read, "p1", "d1")), "{topic}");
        }
        let odd = "/sys/泵/a b&c|d:1.2-3_%/ota/device/inform";
        assert_eq!(UpTopic::read(odd), Some((UpTopic::Inform, "泵", "a b&c|d:1.2-3_%")));
        // A key may look like any other level.
        assert_eq!(UpTopic::read("/sys/sys/ota/ota/device/inform"), Some((UpTopic::Inform, "sys", "ota")));
    }

    #[test]
    fn what_the_server_publishes_and_what_is_no_topic_of_ours_is_not_read() {
        for topic in [
            "",
            "/",
            "/sys",
            "/sys/p1/d1",
            "sys/p1/d1/ota/device/inform",
            "/SYS/p1/d1/ota/device/inform",
            "/sys/p1/d1/ota/device/",
            "/sys/p1/d1/ota/device/Inform",
            "/sys/p1/d1/ota/device/inform/",
            "/sys/p1/d1/ota/device/inform_reply",
            "/sys/p1/d1/ota/device/upgrade",
            "/sys/p1/d1/ota/device/upgrade_reply_reply",
            "/sys/p1/ota/device/inform",
            "/sys//d1/ota/device/inform",
            "/sys/p1//ota/device/inform",
            "/sys/p1/d1/x/ota/device/inform",
            "/sys/p1/d1/thing/measurepoint/post",
            "/sys/+/d1/ota/device/inform",
            "/sys/p1/d#/ota/device/inform",
            "/sys/p1/d\0/ota/device/inform",
            "$share/g/sys/p1/d1/ota/device/inform",
        ] {
            assert_eq!(UpTopic::read(topic), None, "{topic}");
        }
    }

    #[test]
    fn an_answer_goes_to_the_same_topic_with_reply_behind_it_and_an_offer_to_its_own() {
        assert_eq!(reply_topic("/sys/p1/d1/ota/device/inform"), "/sys/p1/d1/ota/device/inform_reply");
        assert_eq!(upgrade("p1", "d1"), "/sys/p1/d1/ota/device/upgrade");
    }

    #[test]
    fn the_filters_are_the_topics_with_any_keys() {
        let any = UP_TOPICS.map(|(name, _)| format!("/sys/+/+/ota/device/{name}"));
        assert_eq!(filters().map(str::to_owned), any);
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_a_topic_fail(topic: String, tail in ".{0,12}") {
            let _ = UpTopic::read(&topic);
            let _ = UpTopic::read(&format!("/sys/{topic}/ota/device/{tail}"));
        }

        #[test]
        fn keys_read_back_from_the_topics_they_were_put_into(product_key in "[^/+#\\pC]{1,20}", device_key in "[^/+#\\pC]{1,20}") {
            let topic = format!("{}_reply", upgrade(&product_key, &device_key));
            prop_assert_eq!(UpTopic::read(&topic), Some((UpTopic::UpgradeReply, product_key.as_str(), device_key.as_str())));
        }
    }
}
