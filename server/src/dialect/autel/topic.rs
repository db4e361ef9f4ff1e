//! Where messages come from and go to.

/// Where a gateway, or a device attached to one, speaks; with its serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpTopic<'a> {
    /// What it is like now, every two seconds.
    Osd(&'a str),
    /// What it is like now, when that changes.
    State(&'a str),
    Events(&'a str),
    ServicesReply(&'a str),
    Requests(&'a str),
    PropertySetReply(&'a str),
    /// Who is attached to it.
    Status(&'a str),
}

impl<'a> UpTopic<'a> {
    /// None of a topic that a gateway doesn't speak on.
    pub(crate) fn read(topic: &'a str) -> Option<Self> {
        let (realm, rest) = topic.split_once("/product/")?;
        let (sn, channel) = rest.split_once('/')?;
        if sn.is_empty() || sn.contains(['+', '#']) {
            return None;
        }
        match (realm, channel) {
            ("thing", "osd") => Some(Self::Osd(sn)),
            ("thing", "state") => Some(Self::State(sn)),
            ("thing", "events") => Some(Self::Events(sn)),
            ("thing", "services_reply") => Some(Self::ServicesReply(sn)),
            ("thing", "requests") => Some(Self::Requests(sn)),
            ("thing", "property/set_reply") => Some(Self::PropertySetReply(sn)),
            ("sys", "status") => Some(Self::Status(sn)),
            _ => None,
        }
    }

    pub(crate) const fn sn(self) -> &'a str {
        match self {
            Self::Osd(sn)
            | Self::State(sn)
            | Self::Events(sn)
            | Self::ServicesReply(sn)
            | Self::Requests(sn)
            | Self::PropertySetReply(sn)
            | Self::Status(sn) => sn,
        }
    }
}

/// What to subscribe to at a broker of somebody else's in order to hear all of it.
pub(crate) const fn filters() -> [&'static str; 7] {
    [
        "thing/product/+/osd",
        "thing/product/+/state",
        "thing/product/+/events",
        "thing/product/+/services_reply",
        "thing/product/+/requests",
        "thing/product/+/property/set_reply",
        "sys/product/+/status",
    ]
}

pub(crate) fn services(sn: &str) -> String {
    format!("thing/product/{sn}/services")
}

pub(crate) fn events_reply(sn: &str) -> String {
    format!("thing/product/{sn}/events_reply")
}

pub(crate) fn requests_reply(sn: &str) -> String {
    format!("thing/product/{sn}/requests_reply")
}

pub(crate) fn status_reply(sn: &str) -> String {
    format!("sys/product/{sn}/status_reply")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_hears_one_topic_and_each_topic_has_a_filter() {
        let topics = filters().map(|filter| filter.replace('+', "NM1"));
        assert_eq!(
            topics.each_ref().map(|topic| UpTopic::read(topic)),
            [
                Some(UpTopic::Osd("NM1")),
                Some(UpTopic::State("NM1")),
                Some(UpTopic::Events("NM1")),
                Some(UpTopic::ServicesReply("NM1")),
                Some(UpTopic::Requests("NM1")),
                Some(UpTopic::PropertySetReply("NM1")),
                Some(UpTopic::Status("NM1")),
            ]
        );
        assert!(topics.iter().all(|topic| UpTopic::read(topic).map(UpTopic::sn) == Some("NM1")));
    }

    #[test]
    fn no_other_topic_is_one_that_gateways_speak_on() {
        let ours = [services("a"), events_reply("a"), requests_reply("a"), status_reply("a")];
        assert_eq!(
            ours.each_ref().map(String::as_str),
            [
                "thing/product/a/services",
                "thing/product/a/events_reply",
                "thing/product/a/requests_reply",
                "sys/product/a/status_reply"
            ]
        );
        let others = [
            "",
            "/",
            "thing/product/",
            "thing/product//events",
            "thing/product/a",
            "thing/product/a/",
            "thing/product/a/events/",
            "thing/product/a/events/b",
            "thing/product/a/property/set",
            "thing/product/a/status",
            "sys/product/a/events",
            "/thing/product/a/events",
            "x/thing/product/a/events",
            "thing/product/+/events",
            "thing/product/#/events",
            "thing/thing/product/a/events",
            "Thing/product/a/events",
        ];
        for topic in ours.iter().map(String::as_str).chain(others) {
            assert_eq!(UpTopic::read(topic), None, "{topic}");
        }
    }
}
