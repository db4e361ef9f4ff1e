//! Both ends against each other in memory, against bytes written by hand after the specification, and against bytes of bad will.

use super::{
    Acknowledgement, ClientWire, Connect, ConnectOptions, Delivery, Farewell, FromClient, FromServer, ProtocolVersion, Publication,
    PublishError, Qos, Refusal, ServerWire, SubscribeRefusal, WireError, WireLimits,
};
use bytes::Bytes;
use proptest::prelude::*;

const LIMITS: WireLimits = WireLimits { packet_bytes_max: 4096, receive_max: 3 };
const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];

/// Two ends and the line between them, which hands over `slice` bytes at a time.
struct Pair {
    client: ClientWire,
    server: ServerWire,
    slice: usize,
}

impl Pair {
    fn new(version: ProtocolVersion, slice: usize) -> Self {
        Self { client: ClientWire::new(version, LIMITS), server: ServerWire::new(LIMITS), slice }
    }

    /// Connected, with nothing on the line.
    fn connected(version: ProtocolVersion) -> Self {
        let mut pair = Self::new(version, usize::MAX);
        pair.client.connect(&options(version)).unwrap();
        pair.server_hears();
        pair.server.accept(false, None);
        pair.client_hears();
        pair
    }

    fn server_hears(&mut self) -> Vec<FromClient> {
        let mut said = Vec::new();
        for slice in self.client.output().split().chunks(self.slice) {
            self.server.receive(slice, &mut said).unwrap();
        }
        said
    }

    fn client_hears(&mut self) -> Vec<FromServer> {
        let mut said = Vec::new();
        for slice in self.server.output().split().chunks(self.slice) {
            self.client.receive(slice, &mut said).unwrap();
        }
        said
    }
}

fn options(version: ProtocolVersion) -> ConnectOptions {
    ConnectOptions {
        version,
        client_id: "dévice-1".to_owned(),
        clean: false,
        keep_alive_s: 30,
        username: Some("user".to_owned()),
        password: Some(vec![0, 255, 1]),
        session_expiry_s: 600,
        will: Some(("will/topic".to_owned(), Bytes::from_static(b"gone"), Qos::AtLeastOnce)),
    }
}

fn for_each_version_and_slicing(check: impl Fn(Pair, ProtocolVersion)) {
    for version in VERSIONS {
        for slice in [1, 2, 3, 7, usize::MAX] {
            check(Pair::new(version, slice), version);
        }
    }
}

/// The first and only thing said.
#[track_caller]
fn only<T>(mut said: Vec<T>) -> T {
    assert_eq!(said.len(), 1, "one thing was to be said");
    said.pop().unwrap()
}

#[track_caller]
fn publication(said: FromClient) -> Publication {
    match said {
        FromClient::Publish(publication) => publication,
        other => panic!("a publication was to come, not {other:?}"),
    }
}

/// A server that accepted a client of this version, and has nothing to write.
fn accepted(version: ProtocolVersion) -> ServerWire {
    let mut pair = Pair::connected(version);
    pair.server.output().clear();
    pair.server
}

/// What a server makes of bytes that come after an accepted CONNECT.
fn after_connect(version: ProtocolVersion, bytes: &[u8]) -> (Result<(), WireError>, Vec<FromClient>, Vec<u8>) {
    let mut server = accepted(version);
    let mut said = Vec::new();
    let result = server.receive(bytes, &mut said);
    (result, said, server.output().to_vec())
}

fn from_unknown(bytes: &[u8]) -> (Result<(), WireError>, Vec<FromClient>, Vec<u8>) {
    let mut server = ServerWire::new(LIMITS);
    let mut said = Vec::new();
    let result = server.receive(bytes, &mut said);
    (result, said, server.output().to_vec())
}

#[test]
fn a_conversation_means_the_same_at_both_ends_in_both_versions_however_it_is_sliced() {
    for_each_version_and_slicing(|mut pair, version| {
        let is_v5 = version == ProtocolVersion::V5;
        pair.client.connect(&options(version)).unwrap();
        let connect = Connect {
            version,
            client_id: "dévice-1".to_owned(),
            clean: false,
            keep_alive_s: 30,
            username: Some("user".to_owned()),
            password: Some(vec![0, 255, 1]),
            session_expiry_s: if is_v5 { 600 } else { u32::MAX },
            receive_max: if is_v5 { 3 } else { u16::MAX },
        };
        assert_eq!(pair.server_hears(), [FromClient::Connect(connect)]);
        assert_eq!(pair.server.version(), Some(version));

        pair.server.accept(true, None);
        let connected = FromServer::Connected { session_present: true, shared_subscriptions: !is_v5, keep_alive_s: None };
        assert_eq!(pair.client_hears(), [connected]);

        let packet_id = pair.client.subscribe(&[("a/+", Qos::ExactlyOnce), ("#", Qos::AtMostOnce)]).unwrap();
        let filters = vec![("a/+".to_owned(), Qos::ExactlyOnce), ("#".to_owned(), Qos::AtMostOnce)];
        assert_eq!(pair.server_hears(), [FromClient::Subscribe { packet_id, filters }]);
        pair.server.subscribed(packet_id, &[Ok(Qos::AtLeastOnce), Err(SubscribeRefusal::NotAuthorized)]);
        assert_eq!(pair.client_hears(), [FromServer::Subscribed { packet_id, granted: vec![Some(Qos::AtLeastOnce), None] }]);

        for (qos, payload) in [(Qos::AtMostOnce, ""), (Qos::AtLeastOnce, "x"), (Qos::AtMostOnce, "three hundred")] {
            let payload = Bytes::from(payload.repeat(25));
            let packet_id = pair.server.publish("a/b", payload.clone(), qos).unwrap();
            let topic = "a/b".to_owned();
            let publication = Publication { topic, payload, qos, retain: false, duplicate: false, packet_id };
            assert_eq!(pair.client_hears(), [FromServer::Publish(publication.clone())]);
            pair.client.acknowledge(&publication, Acknowledgement::Taken);
            let acknowledged: Vec<_> = packet_id.map(|packet_id| FromClient::Acknowledged { packet_id }).into_iter().collect();
            assert_eq!(pair.server_hears(), acknowledged);
        }

        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let packet_id = pair.client.publish("up", Bytes::from_static(b"{}"), qos).unwrap();
            let taken = publication(only(pair.server_hears()));
            assert_eq!((taken.qos, taken.packet_id, &taken.payload[..]), (qos, packet_id, &b"{}"[..]));
            pair.server.acknowledge(&taken, Acknowledgement::Taken);
            if qos == Qos::ExactlyOnce {
                assert_eq!(pair.client_hears(), [], "PUBREC is answered by PUBREL");
                assert_eq!(pair.server_hears(), [], "PUBREL is answered by PUBCOMP");
            }
            let acknowledged: Vec<_> =
                packet_id.map(|packet_id| FromServer::Acknowledged { packet_id, delivery: Delivery::Taken }).into_iter().collect();
            assert_eq!(pair.client_hears(), acknowledged);
        }

        let packet_id = pair.client.unsubscribe(&["a/+", "none"]).unwrap();
        let filters = vec!["a/+".to_owned(), "none".to_owned()];
        assert_eq!(pair.server_hears(), [FromClient::Unsubscribe { packet_id, filters }]);
        pair.server.unsubscribed(packet_id, &[true, false]);
        assert_eq!(pair.client_hears(), [FromServer::Unsubscribed { packet_id }]);

        pair.client.ping();
        assert_eq!(pair.server_hears(), []);
        assert_eq!(pair.client_hears(), [FromServer::Pong]);

        pair.client.disconnect();
        assert_eq!(pair.server_hears(), [FromClient::Disconnect { session_expiry_s: None }]);
        assert_eq!(pair.client.publish("up", Bytes::new(), Qos::AtMostOnce), Err(PublishError::NotConnected));
        assert_eq!(pair.server.publish("a", Bytes::new(), Qos::AtMostOnce), Err(PublishError::NotConnected));
    });
}

#[test]
fn every_refusal_reaches_the_client() {
    for version in VERSIONS {
        for refusal in [
            Refusal::BadCredentials,
            Refusal::NotAuthorized,
            Refusal::ClientIdInvalid,
            Refusal::ServerBusy,
            Refusal::ServerUnavailable,
            Refusal::QuotaExceeded,
            Refusal::UnsupportedVersion,
        ] {
            let mut pair = Pair::new(version, usize::MAX);
            pair.client.connect(&options(version)).unwrap();
            pair.server_hears();
            pair.server.refuse(refusal);
            let FromServer::Refused { is_version, is_credentials, .. } = only(pair.client_hears()) else {
                panic!("{refusal:?} was to be heard as a refusal");
            };
            assert_eq!(is_version, refusal == Refusal::UnsupportedVersion, "{refusal:?}");
            assert_eq!(is_credentials, matches!(refusal, Refusal::BadCredentials | Refusal::NotAuthorized), "{refusal:?}");
        }
    }
}

#[test]
fn a_refused_publication_is_refused_in_5_0_and_acknowledged_like_any_in_3_1_1() {
    for outcome in [
        Acknowledgement::NotAuthorized,
        Acknowledgement::PayloadInvalid,
        Acknowledgement::TopicInvalid,
        Acknowledgement::QuotaExceeded,
        Acknowledgement::Unavailable,
    ] {
        for version in VERSIONS {
            for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
                let mut pair = Pair::connected(version);
                let packet_id = pair.client.publish("up", Bytes::new(), qos).unwrap().unwrap();
                let taken = publication(only(pair.server_hears()));
                pair.server.acknowledge(&taken, outcome);
                let mut said = pair.client_hears();
                pair.server_hears();
                said.extend(pair.client_hears());
                let delivery = match outcome {
                    _ if version == ProtocolVersion::V311 => Delivery::Taken,
                    Acknowledgement::QuotaExceeded => Delivery::RefusedForNow,
                    _ => Delivery::Refused,
                };
                assert_eq!(said, [FromServer::Acknowledged { packet_id, delivery }], "{outcome:?} {version:?} {qos:?}");
            }
        }
    }
}

#[test]
fn every_farewell_reaches_a_5_0_client_and_3_1_1_has_none() {
    for farewell in [
        Farewell::ServerShuttingDown,
        Farewell::SessionTakenOver,
        Farewell::NotAuthorized,
        Farewell::KeepAliveTimeout,
        Farewell::QuotaExceeded,
        Farewell::ProtocolError,
        Farewell::AdministrativeAction,
    ] {
        let mut pair = Pair::connected(ProtocolVersion::V5);
        pair.server.disconnect(farewell);
        let FromServer::Disconnected { reason } = only(pair.client_hears()) else {
            panic!("{farewell:?} was to be heard as a farewell");
        };
        assert!(reason.starts_with(&format!("{farewell:?}")), "{reason}");

        let mut pair = Pair::connected(ProtocolVersion::V311);
        pair.server.disconnect(farewell);
        assert_eq!(&pair.server.output()[..], b"");
    }
}

/// MQTT 3.1.1, figures 3.6 and following: the example of a variable header, with a payload.
const CONNECT_3_1_1: &[u8] = b"\x10\x24\x00\x04MQTT\x04\xce\x00\x0a\x00\x03dev\x00\x03w/t\x00\x04gone\x00\x04user\x00\x02pw";
/// MQTT 5.0, 3.1.2.12: the same with a session expiry interval, and an empty will property length.
const CONNECT_5_0: &[u8] =
    b"\x10\x2b\x00\x04MQTT\x05\xce\x00\x0a\x05\x11\x00\x00\x00\x0a\x00\x03dev\x00\x00\x03w/t\x00\x04gone\x00\x04user\x00\x02pw";

#[test]
fn connect_is_as_the_specification_writes_it() {
    for (version, bytes, session_expiry_s) in [(ProtocolVersion::V311, CONNECT_3_1_1, 0), (ProtocolVersion::V5, CONNECT_5_0, 10)] {
        let connect = Connect {
            version,
            client_id: "dev".to_owned(),
            clean: true,
            keep_alive_s: 10,
            username: Some("user".to_owned()),
            password: Some(b"pw".to_vec()),
            session_expiry_s,
            receive_max: u16::MAX,
        };
        assert_eq!(from_unknown(bytes), (Ok(()), vec![FromClient::Connect(connect)], Vec::new()));
    }

    let mut client = ClientWire::new(ProtocolVersion::V311, LIMITS);
    let options = ConnectOptions {
        version: ProtocolVersion::V311,
        client_id: "dev".to_owned(),
        clean: true,
        keep_alive_s: 10,
        username: Some("user".to_owned()),
        password: Some(b"pw".to_vec()),
        session_expiry_s: 10,
        will: Some(("w/t".to_owned(), Bytes::from_static(b"gone"), Qos::AtLeastOnce)),
    };
    client.connect(&options).unwrap();
    assert_eq!(&client.output()[..], CONNECT_3_1_1);

    let mut client = ClientWire::new(ProtocolVersion::V5, LIMITS);
    client.connect(&ConnectOptions { version: ProtocolVersion::V5, will: None, ..options }).unwrap();
    let properties = b"\x0d\x21\x00\x03\x27\x00\x00\x10\x00\x11\x00\x00\x00\x0a";
    let expected = [b"\x10\x27\x00\x04MQTT\x05\xc2\x00\x0a", &properties[..], b"\x00\x03dev\x00\x04user\x00\x02pw"].concat();
    assert_eq!(&client.output()[..], expected);
}

#[test]
fn connack_is_as_the_specification_writes_it() {
    let mut server = ServerWire::new(LIMITS);
    server.receive(CONNECT_3_1_1, &mut Vec::new()).unwrap();
    server.accept(true, Some("not said in 3.1.1"));
    assert_eq!(&server.output()[..], b"\x20\x02\x01\x00");

    let mut server = ServerWire::new(LIMITS);
    server.receive(CONNECT_5_0, &mut Vec::new()).unwrap();
    server.accept(false, Some("new"));
    let capabilities = b"\x21\x00\x03\x27\x00\x00\x10\x00\x25\x00\x29\x00\x2a\x00\x12\x00\x03new";
    assert_eq!(&server.output()[..], [b"\x20\x17\x00\x00\x14", &capabilities[..]].concat());

    // Whose session is kept for less long than it asked for is told so, and nobody else.
    for (expiry_s_max, told) in [(10, &b""[..]), (7, b"\x11\x00\x00\x00\x07")] {
        let mut server = ServerWire::new(LIMITS);
        server.receive(CONNECT_5_0, &mut Vec::new()).unwrap();
        server.bound_session_expiry(expiry_s_max);
        server.accept(false, None);
        assert!(server.output().ends_with(&[b"\x2a\x00", told].concat()), "{expiry_s_max}");
    }
}

#[test]
fn publish_is_as_the_specification_writes_it() {
    // MQTT 3.1.1, figure 3.11: topic a/b, packet id 10. 5.0 adds its property length.
    for (version, bytes, published) in [
        (ProtocolVersion::V311, &b"\x3a\x09\x00\x03a/b\x00\x0ahi"[..], &b"\x32\x09\x00\x03a/b\x00\x01hi"[..]),
        (ProtocolVersion::V5, b"\x3a\x0a\x00\x03a/b\x00\x0a\x00hi", b"\x32\x0a\x00\x03a/b\x00\x01\x00hi"),
    ] {
        let publication = Publication {
            topic: "a/b".to_owned(),
            payload: Bytes::from_static(b"hi"),
            qos: Qos::AtLeastOnce,
            retain: false,
            duplicate: true,
            packet_id: Some(10),
        };
        let mut server = accepted(version);
        let mut said = Vec::new();
        server.receive(bytes, &mut said).unwrap();
        assert_eq!(said, [FromClient::Publish(publication.clone())]);
        server.acknowledge(&publication, Acknowledgement::Taken);
        assert_eq!(&server.output().split()[..], b"\x40\x02\x00\x0a");

        assert_eq!(server.publish("a/b", Bytes::from_static(b"hi"), Qos::AtLeastOnce), Ok(Some(1)));
        assert_eq!(&server.output()[..], published);
    }
}

#[test]
fn subscribe_is_as_the_specification_writes_it() {
    // MQTT 3.1.1, figure 3.23; 5.0 adds its property length.
    for (version, bytes, suback) in [
        (ProtocolVersion::V311, &b"\x82\x0e\x00\x0a\x00\x03a/b\x01\x00\x03c/d\x02"[..], &b"\x90\x04\x00\x0a\x01\x80"[..]),
        (ProtocolVersion::V5, b"\x82\x0f\x00\x0a\x00\x00\x03a/b\x01\x00\x03c/d\x02", b"\x90\x05\x00\x0a\x00\x01\x9e"),
    ] {
        let mut server = accepted(version);
        let mut said = Vec::new();
        server.receive(bytes, &mut said).unwrap();
        let filters = vec![("a/b".to_owned(), Qos::AtLeastOnce), ("c/d".to_owned(), Qos::ExactlyOnce)];
        assert_eq!(said, [FromClient::Subscribe { packet_id: 10, filters }]);
        server.subscribed(10, &[Ok(Qos::AtLeastOnce), Err(SubscribeRefusal::SharedNotSupported)]);
        assert_eq!(&server.output()[..], suback);
    }
}

#[test]
fn an_unknown_protocol_version_is_refused_in_the_oldest_form() {
    for (bytes, level) in
        [(&b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x0a\x00\x00"[..], 3), (b"\x10\x0c\x00\x04MQTT\x06\x02\x00\x0a\x00\x00", 6)]
    {
        assert_eq!(from_unknown(bytes), (Err(WireError::UnsupportedVersion(level)), vec![], b"\x20\x02\x00\x01".to_vec()));
    }
    let mut client = ClientWire::new(ProtocolVersion::V5, LIMITS);
    client.connect(&options(ProtocolVersion::V5)).unwrap();
    let mut said = Vec::new();
    client.receive(b"\x20\x02\x00\x01", &mut said).unwrap();
    assert!(matches!(only(said), FromServer::Refused { is_version: true, is_credentials: false, .. }));
}

#[test]
fn a_packet_too_large_is_refused_before_its_body() {
    // The header announces 4,097 bytes in all; none of them comes.
    let header = b"\x30\xfe\x1f";
    for (version, last_words) in [(ProtocolVersion::V311, &b""[..]), (ProtocolVersion::V5, b"\xe0\x01\x95")] {
        let expected = (Err(WireError::TooLarge { bytes_max: 4096 }), vec![], last_words.to_vec());
        assert_eq!(after_connect(version, header), expected);
        assert_eq!(after_connect(version, b"\x30\xfd\x1f").0, Ok(()), "4,096 bytes are awaited");
    }
}

#[test]
fn a_client_hears_of_a_publication_too_large_and_what_comes_behind_it() {
    for version in VERSIONS {
        let properties: &[u8] = if version == ProtocolVersion::V5 { &[0] } else { &[] };
        let publish = |packet_id: u8, payload: &[u8]| {
            let body = [&b"\0\x03a/b\0"[..], &[packet_id], properties, payload].concat();
            let length = [body.len() as u8 | 0x80, (body.len() >> 7) as u8];
            [&[0x32], &length[..], &body].concat()
        };
        let bytes = [publish(7, &[b'x'; 9_000]), publish(8, b"small")].concat();
        for slice in [1, 2, 3, 1_000, usize::MAX] {
            let mut pair = Pair::connected(version);
            let mut said = Vec::new();
            for slice in bytes.chunks(slice) {
                pair.client.receive(slice, &mut said).unwrap();
            }
            let [FromServer::TooLarge(large), FromServer::Publish(small)] = &said[..] else { panic!("{said:?}") };
            assert_eq!((&*large.topic, large.packet_id, large.payload.len()), ("a/b", Some(7), 0));
            assert_eq!((&*small.topic, small.packet_id, &small.payload[..]), ("a/b", Some(8), &b"small"[..]));
            pair.client.acknowledge(large, Acknowledgement::Taken);
            assert_eq!(pair.client.output()[..4], *b"\x40\x02\0\x07");
        }
    }
    // What can't be read for another reason is refused, also where it is too large.
    let mut pair = Pair::connected(ProtocolVersion::V311);
    let bytes = [&b"\x32\xa8\x46\xff\xff"[..], &[b'x'; 9_000]].concat();
    assert_eq!(pair.client.receive(&bytes, &mut Vec::new()), Err(WireError::Malformed("PUBLISH")));
}

#[test]
fn a_stranger_gets_no_more_memory_than_a_connect_takes() {
    let mut server = ServerWire::new(WireLimits { packet_bytes_max: u32::MAX, receive_max: 1 });
    assert_eq!(server.receive(b"\x10\xfe\xff\x03", &mut Vec::new()), Err(WireError::TooLarge { bytes_max: 64 * 1024 }));
}

#[test]
fn a_second_connect_ends_the_connection() {
    for (version, connect) in [(ProtocolVersion::V311, CONNECT_3_1_1), (ProtocolVersion::V5, CONNECT_5_0)] {
        let (result, said, _) = after_connect(version, connect);
        assert_eq!((result, said), (Err(WireError::Violation("a second CONNECT")), vec![]));

        let (result, said, output) = from_unknown(&connect.repeat(2));
        assert_eq!((result, said.len(), &output[..]), (Err(WireError::Violation("a second CONNECT")), 1, &b""[..]));
    }
}

#[test]
fn nothing_is_heard_after_the_end() {
    let mut server = accepted(ProtocolVersion::V311);
    let mut said = Vec::new();
    server.receive(b"\xe0\x00\xc0\x00\x00\x00", &mut said).unwrap();
    server.receive(b"\xc0\x00", &mut said).unwrap();
    assert_eq!(said, [FromClient::Disconnect { session_expiry_s: None }]);
    assert_eq!(&server.output()[..], b"");
}

#[test]
fn what_comes_before_the_connack_is_heard_and_answered_after_it() {
    let mut server = ServerWire::new(LIMITS);
    let mut said = Vec::new();
    server.receive(&[CONNECT_3_1_1, b"\xc0\x00", b"\x32\x07\x00\x03a/b\x00\x07"].concat(), &mut said).unwrap();
    assert_eq!(&server.output()[..], b"", "the CONNACK comes first");
    let published = publication(said.pop().unwrap());
    server.acknowledge(&published, Acknowledgement::Taken);
    server.accept(false, None);
    assert_eq!(&server.output()[..], b"\x20\x02\x00\x00\xd0\x00\x40\x02\x00\x07");

    let mut server = ServerWire::new(LIMITS);
    server.receive(&[CONNECT_3_1_1, b"\xc0\x00"].concat(), &mut Vec::new()).unwrap();
    server.refuse(Refusal::NotAuthorized);
    assert_eq!(&server.output()[..], b"\x20\x02\x00\x05", "a refused client is told nothing else");
}

#[test]
fn what_no_client_may_send_ends_the_connection() {
    let both: &[(&str, &[u8])] = &[
        ("CONNACK", b"\x20\x02\x00\x00"),
        ("SUBACK", b"\x90\x03\x00\x01\x00"),
        ("PINGRESP", b"\xd0\x00"),
        ("type 0", b"\x00\x00"),
        ("a remaining length of five bytes", b"\x30\xff\xff\xff\xff\x01"),
        ("PINGREQ with a body", b"\xc0\x01\x00"),
        ("PINGREQ with flags", b"\xc1\x00"),
        ("SUBSCRIBE without its flags", b"\x80\x08\x00\x0a\x00\x03a/b\x01"),
        ("SUBSCRIBE cut short", b"\x82\x06\x00\x0a\x00\x03a/"),
        ("SUBSCRIBE of nothing", b"\x82\x02\x00\x0a"),
        ("UNSUBSCRIBE of nothing", b"\xa2\x02\x00\x0a"),
        ("PUBLISH with QoS 3", b"\x36\x07\x00\x03a/b\x00\x01"),
        ("PUBLISH without its topic", b"\x30\x01\x00"),
        ("PUBLISH with less topic than it says", b"\x30\x04\x00\x03a/"),
        ("PUBLISH to no topic", b"\x30\x03\x00\x00\x00"),
        ("PUBLISH to a wildcard", b"\x30\x06\x00\x03a/#\x00"),
        ("PUBLISH to a null character", b"\x30\x06\x00\x03a/\x00\x00"),
        ("PUBLISH to what is not UTF-8", b"\x30\x06\x00\x03a/\xff\x00"),
        ("PUBLISH with packet id 0", b"\x32\x08\x00\x03a/b\x00\x00\x00"),
        ("QoS 2 PUBLISH with packet id 0, twice", b"\x34\x08\x00\x03a/b\x00\x00\x00\x34\x08\x00\x03a/b\x00\x00\x00"),
        ("PUBACK of packet id 0", b"\x40\x02\x00\x00"),
        ("PUBACK cut short", b"\x40\x01\x00"),
    ];
    let only_3_1_1: &[(&str, &[u8])] = &[
        ("AUTH", b"\xf0\x00"),
        ("SUBSCRIBE with the options of 5.0", b"\x82\x08\x00\x0a\x00\x03a/b\x05"),
        ("SUBSCRIBE with packet id 0", b"\x82\x08\x00\x00\x00\x03a/b\x01"),
        ("SUBSCRIBE to no filter", b"\x82\x05\x00\x0a\x00\x00\x01"),
        ("UNSUBSCRIBE from no filter", b"\xa2\x04\x00\x0a\x00\x00"),
        ("PUBACK with a reason code", b"\x40\x03\x00\x01\x00"),
        ("DISCONNECT with a reason code", b"\xe0\x01\x00"),
    ];
    let only_5_0: &[(&str, &[u8])] = &[
        ("AUTH", b"\xf0\x00"),
        ("AUTH with a method", b"\xf0\x06\x18\x04\x15\x00\x01m"),
        ("SUBSCRIBE with packet id 0", b"\x82\x09\x00\x00\x00\x00\x03a/b\x01"),
        ("SUBSCRIBE to no filter", b"\x82\x06\x00\x0a\x00\x00\x00\x01"),
        ("SUBSCRIBE with a subscription identifier", b"\x82\x0b\x00\x0a\x02\x0b\x01\x00\x03a/b\x01"),
        ("PUBLISH without its properties", b"\x30\x05\x00\x03a/b"),
        ("PUBLISH with more properties than there are", b"\x30\x07\x00\x03a/b\x7f\x01"),
        ("PUBLISH with an unknown property", b"\x30\x08\x00\x03a/b\x02\x7f\x01"),
        ("PUBLISH with a topic alias", b"\x30\x09\x00\x03a/b\x03\x23\x00\x01"),
        ("PUBLISH with only a topic alias", b"\x30\x06\x00\x00\x03\x23\x00\x01"),
        ("PUBACK with an unknown reason", b"\x40\x03\x00\x01\x55"),
    ];
    let of_each = [(ProtocolVersion::V311, only_3_1_1), (ProtocolVersion::V5, only_5_0)];
    for (version, own) in of_each {
        for (what, bytes) in both.iter().chain(own) {
            let (result, said, output) = after_connect(version, bytes);
            assert!(result.is_err(), "{what} in {version:?}: {said:?}");
            assert_eq!(said, [], "{what} in {version:?}");
            let told = if version == ProtocolVersion::V5 { 0xe0 } else { 0 };
            assert_eq!(output.first().copied().unwrap_or_default(), told, "{what} in {version:?}: {output:x?}");
        }
    }
}

#[test]
fn what_no_stranger_may_send_ends_the_connection() {
    for (what, bytes) in [
        ("PUBLISH", &b"\x30\x05\x00\x03a/b"[..]),
        ("PINGREQ", b"\xc0\x00"),
        ("DISCONNECT", b"\xe0\x00"),
        ("AUTH", b"\xf0\x00"),
        ("an empty CONNECT", b"\x10\x00"),
        ("another protocol", b"\x10\x0c\x00\x04HTTP\x04\x02\x00\x0a\x00\x00"),
        ("the reserved flag", b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x0a\x00\x00"),
        ("a will of QoS 3", b"\x10\x10\x00\x04MQTT\x04\x1e\x00\x0a\x00\x00\x00\x00\x00\x00"),
        ("a QoS without a will", b"\x10\x0c\x00\x04MQTT\x04\x0a\x00\x0a\x00\x00"),
        ("a password without a name", b"\x10\x0e\x00\x04MQTT\x04\x42\x00\x0a\x00\x00\x00\x00"),
        ("a name that isn't there", b"\x10\x0c\x00\x04MQTT\x04\x82\x00\x0a\x00\x00"),
        ("a null character", b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x0a\x00\x01\x00"),
        ("more than CONNECT has", b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x0a\x00\x00\x00"),
        ("CONNECT of 5.0 without properties", b"\x10\x0a\x00\x04MQTT\x05\x02\x00\x0a"),
        ("a receive maximum of 0", b"\x10\x10\x00\x04MQTT\x05\x02\x00\x0a\x03\x21\x00\x00\x00\x00"),
        ("a packet size of 5", b"\x10\x12\x00\x04MQTT\x05\x02\x00\x0a\x05\x27\x00\x00\x00\x05\x00\x00"),
        ("the same property twice", b"\x10\x13\x00\x04MQTT\x05\x02\x00\x0a\x06\x21\x00\x01\x21\x00\x01\x00\x00"),
        ("enhanced authentication", b"\x10\x11\x00\x04MQTT\x05\x02\x00\x0a\x04\x15\x00\x01m\x00\x00"),
    ] {
        let (result, said, output) = from_unknown(bytes);
        assert!(result.is_err(), "{what}: {said:?}");
        assert_eq!(said, [], "{what}");
        assert!(output.is_empty() || output[0] == 0x20, "{what}: {output:x?}");
    }
}

#[test]
fn an_empty_client_id_is_left_to_the_caller() {
    let (result, said, _) = from_unknown(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00");
    assert_eq!(result, Ok(()));
    assert!(matches!(only(said), FromClient::Connect(Connect { client_id, clean: true, .. }) if client_id.is_empty()));
}

#[test]
fn a_session_that_was_not_to_last_can_not_be_made_to() {
    let connect = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x00";
    let disconnect = b"\xe0\x07\x00\x05\x11\x00\x00\x00\x05";
    for (connect, expected) in [(&connect[..], None), (CONNECT_5_0, Some(5))] {
        let mut server = ServerWire::new(LIMITS);
        let mut said = Vec::new();
        server.receive(connect, &mut said).unwrap();
        server.accept(false, None);
        let result = server.receive(disconnect, &mut said);
        assert_eq!(result.is_ok(), expected.is_some());
        assert_eq!(said.get(1), expected.map(|seconds| FromClient::Disconnect { session_expiry_s: Some(seconds) }).as_ref());
    }
}

#[test]
fn a_publication_is_not_acknowledged_before_the_caller_says_so() {
    for version in VERSIONS {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut pair = Pair::connected(version);
            pair.client.publish("up", Bytes::new(), qos).unwrap();
            let taken = publication(only(pair.server_hears()));
            assert_eq!(&pair.server.output()[..], b"");
            pair.server.acknowledge(&taken, Acknowledgement::Taken);
            assert_eq!(pair.server.output().len(), 4);
        }
    }
}

#[test]
fn a_qos_2_publication_is_handed_out_once_however_often_it_comes() {
    let publish = |version| match version {
        ProtocolVersion::V311 => &b"\x34\x07\x00\x03a/b\x00\x07"[..],
        ProtocolVersion::V5 => b"\x34\x08\x00\x03a/b\x00\x07\x00",
    };
    for version in VERSIONS {
        let mut server = accepted(version);
        let mut said = Vec::new();
        server.receive(&publish(version).repeat(3), &mut said).unwrap();
        let taken = publication(only(said));
        assert_eq!(&server.output()[..], b"", "the caller isn't done with it");
        server.acknowledge(&taken, Acknowledgement::Taken);
        server.acknowledge(&taken, Acknowledgement::Taken);
        assert_eq!(&server.output().split()[..], b"\x50\x02\x00\x07");

        let mut said = Vec::new();
        server.receive(publish(version), &mut said).unwrap();
        assert_eq!(said, []);
        assert_eq!(&server.output().split()[..], b"\x50\x02\x00\x07");

        server.receive(b"\x62\x02\x00\x07", &mut said).unwrap();
        assert_eq!(&server.output().split()[..], b"\x70\x02\x00\x07");
        server.receive(publish(version), &mut said).unwrap();
        assert_eq!(said.len(), 1, "released, the id is free for another");
    }
}

#[test]
fn a_pubrel_that_releases_nothing_is_answered() {
    assert_eq!(after_connect(ProtocolVersion::V311, b"\x62\x02\x00\x07").2, b"\x70\x02\x00\x07");
    assert_eq!(after_connect(ProtocolVersion::V5, b"\x62\x02\x00\x07").2, b"\x70\x03\x00\x07\x92");
}

#[test]
fn a_5_0_client_with_too_many_unacknowledged_publications_is_disconnected_and_a_3_1_1_client_read_no_further() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let mut pair = Pair::connected(ProtocolVersion::V5);
        for _ in 0..3 {
            pair.client.publish("up", Bytes::new(), qos).unwrap();
        }
        assert_eq!(pair.client.publish("up", Bytes::new(), qos), Err(PublishError::Full), "our own client keeps to it");
        assert_eq!(pair.server_hears().len(), 3);
        assert!(pair.server.is_saturated());
        let result = pair.server.receive(b"\x32\x08\x00\x03a/b\x00\x07\x00", &mut Vec::new());
        assert_eq!(result, Err(WireError::ReceiveMaximumExceeded { receive_max: 3 }));
    }

    let mut pair = Pair::connected(ProtocolVersion::V311);
    for _ in 0..4 {
        pair.client.publish("up", Bytes::new(), Qos::AtLeastOnce).unwrap();
    }
    let taken = pair.server_hears();
    assert_eq!(taken.len(), 4);
    assert!(pair.server.is_saturated());
    for said in taken.into_iter().take(2) {
        pair.server.acknowledge(&publication(said), Acknowledgement::Taken);
    }
    assert!(!pair.server.is_saturated());
}

#[test]
fn no_more_is_published_than_the_client_takes() {
    let mut pair = Pair::connected(ProtocolVersion::V5);
    let ids: Vec<_> = (0..3).map(|_| pair.server.publish("a", Bytes::new(), Qos::AtLeastOnce).unwrap().unwrap()).collect();
    assert_eq!((ids, pair.server.vacancy()), (vec![1, 2, 3], 0));
    assert_eq!(pair.server.publish("a", Bytes::new(), Qos::AtLeastOnce), Err(PublishError::Full));
    assert_eq!(pair.server.publish("a", Bytes::new(), Qos::AtMostOnce), Ok(None), "QoS 0 isn't counted");

    let mut said = Vec::new();
    pair.server.receive(b"\x40\x02\x00\x02\x40\x02\x00\x02", &mut said).unwrap();
    assert_eq!(said, [FromClient::Acknowledged { packet_id: 2 }], "once");
    assert_eq!(pair.server.vacancy(), 1);

    let too_large = Bytes::from(vec![0; 4096]);
    assert_eq!(pair.server.publish("a", too_large.clone(), Qos::AtLeastOnce), Err(PublishError::TooLarge));
    assert_eq!(pair.server.publish("a", too_large.slice(..4089), Qos::AtMostOnce), Ok(None), "4,096 bytes in all");
    assert_eq!(pair.server.publish("a", too_large.slice(..4090), Qos::AtMostOnce), Err(PublishError::TooLarge));
    for topic in ["", "a/+", "#", "\0", &"a".repeat(65_536)] {
        assert_eq!(pair.server.publish(topic, Bytes::new(), Qos::AtMostOnce), Err(PublishError::TopicInvalid));
    }
}

#[test]
fn packet_ids_in_use_are_passed_over() {
    let mut server = accepted(ProtocolVersion::V311);
    assert_eq!(server.publish_again(2, "a", Bytes::new()), Ok(Some(2)));
    assert_eq!(&server.output().split()[..], b"\x3a\x05\x00\x01a\x00\x02");
    assert_eq!(server.publish_again(2, "a", Bytes::new()), Ok(Some(1)));
    for expected in 3..=u16::MAX {
        assert_eq!(server.publish("a", Bytes::new(), Qos::ExactlyOnce), Ok(Some(expected)));
    }
    assert_eq!(server.publish("a", Bytes::new(), Qos::AtLeastOnce), Err(PublishError::Full));
    server.receive(b"\x40\x02\x00\x05", &mut Vec::new()).unwrap();
    assert_eq!(server.publish("a", Bytes::new(), Qos::AtLeastOnce), Ok(Some(5)));
}

#[test]
fn a_server_that_breaks_the_protocol_is_left() {
    let connack = |version| match version {
        ProtocolVersion::V311 => &b"\x20\x02\x00\x00"[..],
        ProtocolVersion::V5 => b"\x20\x03\x00\x00\x00",
    };
    for version in VERSIONS {
        for (what, bytes) in [
            ("a second CONNACK", connack(version)),
            ("SUBACK for nothing", b"\x90\x04\x00\x01\x00\x00"),
            ("UNSUBACK for nothing", b"\xb0\x02\x00\x01"),
            ("CONNECT", CONNECT_3_1_1),
            ("PINGREQ", b"\xc0\x00"),
            ("SUBSCRIBE", b"\x82\x08\x00\x0a\x00\x03a/b\x01"),
        ] {
            let mut client = ClientWire::new(version, LIMITS);
            client.connect(&options(version)).unwrap();
            let mut said = Vec::new();
            client.receive(connack(version), &mut said).unwrap();
            assert!(client.receive(bytes, &mut said).is_err(), "{what} in {version:?}");
            assert_eq!(said.len(), 1, "{what} in {version:?}");
        }
        let mut client = ClientWire::new(version, LIMITS);
        client.connect(&options(version)).unwrap();
        assert!(client.receive(b"\xd0\x00", &mut Vec::new()).is_err(), "PINGRESP before CONNACK");
    }
}

#[test]
fn what_a_server_says_that_it_lacks_is_kept_to() {
    let mut client = ClientWire::new(ProtocolVersion::V5, LIMITS);
    client.connect(&options(ProtocolVersion::V5)).unwrap();
    let mut said = Vec::new();
    // Receive maximum 1, maximum QoS 1, maximum packet size 20, server keep alive 7, no shared subscriptions.
    client.receive(b"\x20\x12\x00\x00\x0f\x21\x00\x01\x24\x01\x27\x00\x00\x00\x14\x13\x00\x07\x2a\x00", &mut said).unwrap();
    assert_eq!(said, [FromServer::Connected { session_present: false, shared_subscriptions: false, keep_alive_s: Some(7) }]);
    assert_eq!(client.publish("a", Bytes::new(), Qos::ExactlyOnce), Err(PublishError::QosUnsupported));
    assert_eq!(client.publish("a", Bytes::from(vec![0; 20]), Qos::AtMostOnce), Err(PublishError::TooLarge));
    assert_eq!(client.subscribe(&[("a filter that is too long", Qos::AtMostOnce)]), Err(PublishError::TooLarge));
    assert_eq!(client.subscribe(&[]), Err(PublishError::TopicInvalid));
    assert_eq!(client.unsubscribe(&[""]), Err(PublishError::TopicInvalid));
    assert_eq!(client.vacancy(), 1);
}

#[test]
fn neither_side_shows_a_password() {
    let options = options(ProtocolVersion::V311);
    let (_, said, _) = from_unknown(CONNECT_3_1_1);
    for shown in [format!("{options:?}"), format!("{said:?}")] {
        assert!(shown.contains("user") && !shown.contains("password"), "{shown}");
    }
}

/// Bytes that get further than random ones: pieces of packets, whole and cut, and noise between them.
fn hostile_bytes() -> impl Strategy<Value = Vec<u8>> {
    let packets: &[&'static [u8]] = &[
        CONNECT_3_1_1,
        CONNECT_5_0,
        b"\x20\x02\x00\x00",
        b"\x20\x03\x00\x00\x00",
        b"\x34\x08\x00\x03a/b\x00\x07\x00",
        b"\x32\x08\x00\x03a/b\x00\x08\x00",
        b"\x40\x02\x00\x01",
        b"\x50\x02\x00\x01",
        b"\x62\x02\x00\x07",
        b"\x70\x02\x00\x01",
        b"\x82\x09\x00\x0a\x00\x00\x03a/b\x01",
        b"\x90\x04\x00\x01\x00\x00",
        b"\xa2\x08\x00\x0a\x00\x00\x03a/b",
        b"\xc0\x00",
    ];
    let packet =
        (prop::sample::select(packets), any::<prop::sample::Index>(), any::<Option<u8>>()).prop_map(|(packet, at, other)| {
            let mut packet = packet.to_vec();
            if let Some(other) = other {
                let at = at.index(packet.len());
                packet[at] = other;
            }
            packet
        });
    let noise = prop::collection::vec(any::<u8>(), 0..12);
    prop::collection::vec(prop_oneof![4 => packet, 1 => noise], 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_bytes_harm_a_server(bytes in hostile_bytes(), slice in 1_usize..40, version in prop::option::of(prop::sample::select(&VERSIONS))) {
        let mut server = version.map_or_else(|| ServerWire::new(LIMITS), accepted);
        let (mut said, mut answered) = (Vec::new(), 0);
        let result = bytes.chunks(slice).try_for_each(|slice| {
            server.receive(slice, &mut said)?;
            for said in said.drain(..) {
                answered += 1;
                match said {
                    FromClient::Connect(_) => server.accept(false, None),
                    FromClient::Publish(publication) => server.acknowledge(&publication, Acknowledgement::Taken),
                    FromClient::Subscribe { packet_id, filters } => {
                        server.subscribed(packet_id, &vec![Ok(Qos::AtLeastOnce); filters.len()]);
                    }
                    FromClient::Unsubscribe { packet_id, filters } => server.unsubscribed(packet_id, &vec![true; filters.len()]),
                    FromClient::Acknowledged { .. } | FromClient::Disconnect { .. } => {}
                }
                let _ = server.publish("a", Bytes::new(), Qos::AtLeastOnce);
            }
            Ok::<_, WireError>(())
        });
        prop_assert!(answered <= bytes.len());
        if result.is_err() {
            server.output().clear();
            server.receive(b"\xc0\x00", &mut said).unwrap();
            prop_assert!(server.output().is_empty(), "after an error nothing is answered");
        }
    }

    #[test]
    fn no_bytes_harm_a_client(bytes in hostile_bytes(), slice in 1_usize..40, version in prop::sample::select(&VERSIONS)) {
        let mut client = ClientWire::new(version, LIMITS);
        client.connect(&options(version)).unwrap();
        let mut said = Vec::new();
        for slice in bytes.chunks(slice) {
            if client.receive(slice, &mut said).is_err() {
                break;
            }
            for said in said.drain(..) {
                if let FromServer::Publish(publication) = said {
                    client.acknowledge(&publication, Acknowledgement::Taken);
                }
                let _ = client.publish("a", Bytes::new(), Qos::ExactlyOnce);
                let _ = client.subscribe(&[("a", Qos::AtMostOnce)]);
            }
        }
    }

    #[test]
    fn slicing_changes_nothing(bytes in hostile_bytes(), slice in 1_usize..40, version in prop::sample::select(&VERSIONS)) {
        let (mut whole, mut sliced) = (accepted(version), accepted(version));
        let (mut said_whole, mut said_sliced) = (Vec::new(), Vec::new());
        let result_whole = whole.receive(&bytes, &mut said_whole);
        let result_sliced = bytes.chunks(slice).try_for_each(|slice| sliced.receive(slice, &mut said_sliced));
        prop_assert_eq!(result_whole, result_sliced);
        prop_assert_eq!(said_whole, said_sliced);
        prop_assert_eq!(whole.output(), sliced.output());
    }

    #[test]
    fn a_payload_arrives_as_it_was(payload in prop::collection::vec(any::<u8>(), 0..3000), topic in "[^\0+#]{1,40}") {
        for version in VERSIONS {
            let mut pair = Pair::connected(version);
            pair.client.publish(&topic, Bytes::from(payload.clone()), Qos::AtLeastOnce).unwrap();
            let taken = publication(only(pair.server_hears()));
            prop_assert_eq!((&taken.topic, &taken.payload[..]), (&topic, &payload[..]));
        }
    }
}
