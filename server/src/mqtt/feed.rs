//! What one consumer is still to be told, and how far it has acknowledged: events in the order of their numbers, each published
//! for as long as nobody has acknowledged it, a bounded number at once.
//!
//! Pure: pages of events in, publications out. The position is the number up to which everything was acknowledged or was none of the
//! consumer's; whoever goes on from there misses nothing, and hears at most what was in flight again.

use super::topics;
use super::wire::Qos;
use sluicegate::EventPage;
use sluicegate::model::Event;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Events that one consumer may have in flight, whatever it says that it takes: so much is held for it, and told again where it doesn't
/// acknowledge. Ten thousand events a second over a line of 100 ms.
const IN_FLIGHT_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Feed {
    /// What the consumer subscribed to. Granted already.
    filters: BTreeMap<Box<str>, Qos>,
    waiting: VecDeque<Arc<Event>>,
    /// The last event once more, in its task's topic.
    once_more: Option<Due>,
    in_flight: VecDeque<InFlight>,
    /// The number of the last event that was published or passed over.
    passed: u64,
    /// Something was published since this was last cleared.
    has_sent: bool,
}

#[derive(Debug)]
struct InFlight {
    packet_id: u16,
    sequence: u64,
    is_acknowledged: bool,
}

/// An event to be published.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) topic: String,
    pub(super) event: Arc<Event>,
    pub(super) qos: Qos,
}

impl Feed {
    pub(super) fn new(position: u64) -> Self {
        Self { passed: position, ..Self::default() }
    }

    /// Nothing was subscribed to, so nothing up to here is the consumer's.
    pub(super) fn begin_after(&mut self, sequence: u64) {
        if self.filters.is_empty() && self.in_flight.is_empty() {
            self.passed = self.passed.max(sequence);
        }
    }

    pub(super) fn subscribe(&mut self, filter: &str, qos: Qos) {
        self.filters.insert(filter.into(), qos);
    }

    /// Whether it was there.
    pub(super) fn unsubscribe(&mut self, filter: &str) -> bool {
        self.filters.remove(filter).is_some()
    }

    pub(super) fn filters(&self) -> impl Iterator<Item = (&str, Qos)> {
        self.filters.iter().map(|(filter, qos)| (&**filter, *qos))
    }

    pub(super) fn wants_events(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn take(&mut self, page: EventPage) {
        self.waiting.extend(page.events);
    }

    /// Whether one more may be published. What was acknowledged counts until everything before it was: nobody makes the queue grow by
    /// leaving out the first.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX
    }

    /// The next event that is the consumer's.
    pub(super) fn next(&mut self) -> Option<Due> {
        if let Some(due) = self.once_more.take() {
            return Some(due);
        }
        while let Some(event) = self.waiting.pop_front() {
            self.passed = event.sequence;
            let mut due = self.due(topics::of_event(&event), &event);
            if let Some(in_task) = topics::of_event_in_task(&event).and_then(|topic| self.due(topic, &event)) {
                match due {
                    None => due = Some(in_task),
                    Some(_) => self.once_more = Some(in_task),
                }
            }
            if due.is_some() {
                self.has_sent = true;
                return due;
            }
        }
        None
    }

    /// The event in this topic, if it was subscribed to.
    fn due(&self, topic: String, event: &Arc<Event>) -> Option<Due> {
        let matching = self.filters.iter().filter(|(filter, _)| topics::matches(filter, &topic));
        let qos = matching.map(|(_, qos)| *qos).max()?.min(Qos::AtLeastOnce);
        Some(Due { topic, event: Arc::clone(event), qos })
    }

    /// The number of the last event that was published or passed over.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    pub(super) fn has_sent(&self) -> bool {
        self.has_sent
    }

    pub(super) fn clear_sent(&mut self) {
        self.has_sent = false;
    }

    /// Goes back to what was acknowledged: events are to be read anew from there.
    pub(super) fn restart(&mut self) {
        self.passed = self.position();
        self.in_flight.clear();
        self.once_more = None;
        self.waiting.clear();
    }

    /// It was published, to be acknowledged under this number.
    pub(super) fn sent(&mut self, packet_id: u16, sequence: u64) {
        self.in_flight.push_back(InFlight { packet_id, sequence, is_acknowledged: false });
    }

    pub(super) fn acknowledged(&mut self, packet_id: u16) {
        if let Some(sent) = self.in_flight.iter_mut().find(|sent| sent.packet_id == packet_id && !sent.is_acknowledged) {
            sent.is_acknowledged = true;
        }
        while self.in_flight.front().is_some_and(|sent| sent.is_acknowledged) {
            self.in_flight.pop_front();
        }
    }

    /// Everything up to here was acknowledged, or was none of the consumer's.
    pub(super) fn position(&self) -> u64 {
        let first = self.in_flight.front().map(|first| first.sequence);
        let once_more = self.once_more.as_ref().map(|due| due.event.sequence);
        first.into_iter().chain(once_more).min().map_or(self.passed, |undone| undone - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate::model::{EventKind, Timestamp};

    fn page(events: &[(u64, &str)]) -> EventPage {
        let event = |(sequence, product_id): &(u64, &str)| {
            Arc::new(Event {
                sequence: *sequence,
                kind: EventKind::Result,
                at: Timestamp(0),
                organization: "o".into(),
                product_id: (*product_id).into(),
                device_id: None,
                task_id: None,
                upgrade_id: None,
                state: None,
                percent: None,
                extra: Default::default(),
            })
        };
        EventPage { events: events.iter().map(event).collect(), next: events.last().map_or(1, |(last, _)| last + 1) }
    }

    #[test]
    fn the_position_follows_what_was_acknowledged_without_a_gap() {
        let mut feed = Feed::new(4);
        feed.subscribe("sluicegate/events/o/#", Qos::AtLeastOnce);
        feed.take(page(&[(5, "p"), (6, "p"), (7, "p")]));
        for packet_id in 1..=3 {
            let due = feed.next().unwrap();
            feed.sent(packet_id, due.event.sequence);
        }
        assert!(feed.next().is_none() && feed.wants_events());
        assert_eq!(feed.position(), 4);
        feed.acknowledged(2);
        feed.acknowledged(9);
        assert_eq!(feed.position(), 4);
        feed.acknowledged(1);
        assert_eq!(feed.position(), 6);
        feed.acknowledged(3);
        assert_eq!(feed.position(), 7);
    }

    #[test]
    fn whoever_leaves_out_the_first_acknowledgement_has_room_for_no_more_than_the_window() {
        let mut feed = Feed::new(0);
        assert!(feed.has_room());
        for packet_id in 1..=IN_FLIGHT_MAX as u16 {
            feed.sent(packet_id, packet_id.into());
        }
        for packet_id in 2..=IN_FLIGHT_MAX as u16 {
            feed.acknowledged(packet_id);
        }
        assert!(!feed.has_room());
        feed.acknowledged(1);
        assert!(feed.has_room());
    }

    #[test]
    fn an_event_of_a_task_is_told_in_both_topics_that_were_subscribed_to_and_is_done_after_the_second() {
        let task: sluicegate::model::TaskId = "5ee1a910000000070000002a".parse().unwrap();
        let mut feed = Feed::new(0);
        feed.subscribe("sluicegate/events/o/#", Qos::AtLeastOnce);
        feed.subscribe(&format!("sluicegate/tasks/o/+/{task}"), Qos::AtLeastOnce);
        let mut page = page(&[(1, "p"), (2, "p")]);
        Arc::get_mut(&mut page.events[0]).unwrap().task_id = Some(task);
        feed.take(page);
        let first = feed.next().unwrap();
        feed.sent(1, first.event.sequence);
        feed.acknowledged(1);
        assert_eq!((first.topic.as_str(), feed.position()), ("sluicegate/events/o/p/-", 0));
        let second = feed.next().unwrap();
        assert_eq!((second.topic, second.event.sequence), (format!("sluicegate/tasks/o/p/{task}"), 1));
        feed.sent(2, 1);
        feed.acknowledged(2);
        assert_eq!(feed.position(), 1);
        assert_eq!(feed.next().unwrap().event.sequence, 2);
    }

    #[test]
    fn what_nobody_subscribed_to_is_passed_over_and_needs_no_acknowledgement() {
        let mut feed = Feed::new(0);
        feed.subscribe("sluicegate/events/o/q/+", Qos::AtMostOnce);
        feed.subscribe("sluicegate/events/+/q/#", Qos::ExactlyOnce);
        feed.take(page(&[(1, "p"), (2, "q"), (3, "p")]));
        let due = feed.next().unwrap();
        assert_eq!((due.event.sequence, due.topic.as_str(), due.qos), (2, "sluicegate/events/o/q/-", Qos::AtLeastOnce));
        feed.sent(7, 2);
        assert!(feed.next().is_none());
        assert_eq!(feed.position(), 1);
        feed.acknowledged(7);
        assert_eq!(feed.position(), 3);
        assert!(feed.unsubscribe("sluicegate/events/o/q/+") && !feed.unsubscribe("sluicegate/events/o/q/+"));
    }
}
