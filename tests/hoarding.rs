//! Clients with a good token that take as much as they are given: streams that they don't read, searches that are as dear as they may be.

use crate::common::fleet::issue_token;
use crate::common::http::Head;
use crate::common::{Client, Fleet, TestServer, raise_open_files};
use crate::hostile_support::{beside_good_clients, memory_bytes, settled_memory_bytes};
use serde_json::json;
use std::io::{BufReader, Write};
use std::net::TcpStream;

fn operator(server: &TestServer, organization: &str) -> (Client, String) {
    let token = issue_token(&server.admin(), json!({ "role": "operator", "organization": organization }));
    (server.anonymous().with_token(&token), token)
}

/// Asks for events, and returns the status with the connection, of which nothing more is read.
fn stream(server: &TestServer, token: &str) -> (u16, TcpStream) {
    let mut stream = server.anonymous().connect().unwrap();
    let request = format!("GET /api/v1/events?from=1 HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let head = Head::read(BufReader::new(stream.try_clone().unwrap())).unwrap();
    (head.status, stream)
}

#[test]
fn an_organization_that_opens_all_event_streams_it_can_leaves_some_to_others() {
    let server = TestServer::setup().config("[limits]\nevent_streams_max = 40\n").start();
    let (north, south) = (operator(&server, "north").1, operator(&server, "south").1);
    let mut of_north: Vec<TcpStream> = Vec::new();
    let refused = loop {
        let (status, stream) = stream(&server, &north);
        if status != 200 {
            break status;
        }
        of_north.push(stream);
        assert!(of_north.len() <= 40);
    };
    assert_eq!((refused, of_north.len()), (503, 36));
    let of_south: Vec<(u16, TcpStream)> = (0..5).map(|_| stream(&server, &south)).collect();
    assert_eq!(of_south.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [200, 200, 200, 200, 503]);
    // What is given back may be taken again.
    drop(of_north);
    crate::common::wait_until("there is room again", || (stream(&server, &north).0 == 200).then_some(()));
}

#[test]
fn streams_that_nobody_reads_hold_little_memory() {
    const STREAMS: usize = 300;
    let server = TestServer::start();
    let (client, token) = operator(&server, "north");
    let fleet = Fleet::new(&client, "pump");
    // A task is told of three times.
    for number in 0..300 {
        let task =
            client.post("/api/v1/tasks", &fleet.task_body(json!({ "from_versions": [format!("0.{number}")] }))).expect(201).json();
        let path = format!("/api/v1/tasks/{}", task["id"].as_str().unwrap());
        client.post(&format!("{path}/start"), &json!({})).expect(200);
        client.post(&format!("{path}/stop"), &json!({})).expect(200);
    }
    beside_good_clients("300 event streams that nobody reads", &server, || {
        raise_open_files();
        let before = memory_bytes(&server);
        let streams: Vec<(u16, TcpStream)> = (0..STREAMS).map(|_| stream(&server, &token)).collect();
        assert!(streams.iter().all(|(status, _)| *status == 200));
        // Each is written to until nobody takes more.
        let each = settled_memory_bytes(&server).saturating_sub(before) / STREAMS as u64;
        println!("{each} bytes of memory for each stream that nobody reads");
        assert!(each < 200_000, "{each} bytes for a stream that nobody reads");
    });
}

#[test]
fn the_dearest_searches_hold_nobody_up() {
    const DEVICES: usize = 20_000;
    let server = TestServer::start();
    let (client, token) = operator(&server, "north");
    client.put("/api/v1/products/pump", &json!({})).expect(201);
    let line = |number: usize| {
        let device = json!({
            "product_id": "pump", "device_id": format!("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{number}"),
            "components": [{ "type": 1, "identify": 0, "version": format!("1.{}", number % 1_000) }],
        });
        device.to_string() + "\n"
    };
    for start in (0..DEVICES).step_by(2_000) {
        let lines: String = (start..start + 2_000).map(line).collect();
        client.request("POST", "/api/v1/devices").body(lines.as_bytes()).send().expect(200);
    }
    let fleet = Fleet::new(&client, "pump");
    fleet.start_task(&client, json!({ "from_versions": ["1.1"] }));
    let listed = |count: usize| (0..count).map(|number| format!("'1.{number}'")).collect::<Vec<_>>().join(",");
    let like = format!("desc like '%{}b%'", "a%".repeat(60));
    let expressions = [
        ("ota-firmwares", "searchDeviceUpgrade", format!("firmwareVersion in ({})", listed(1_000))),
        ("ota-firmwares", "searchDeviceUpgrade", ["firmwareVersion='1.1'"; 32].join(" or ")),
        ("ota-firmwares", "searchDeviceUpgrade", format!("{}productKey='pump'{}", "(".repeat(16), ")".repeat(16))),
        ("ota-firmwares", "searchDeviceUpgrade", String::new()),
        ("ota-firmwares", "searchDeviceUpgrade", format!("productKey='{}'", "x".repeat(60_000))),
        ("ota-jobs", "searchTask", ["deviceKey='a'"; 32].join(" or ")),
        ("ota-jobs", "search", [like.as_str(); 8].join(" or ")),
        ("ota-firmwares", "search", [like.as_str(); 8].join(" or ")),
        ("ota-jobs", "search", "(".repeat(60_000)),
        ("ota-jobs", "search", "not ".repeat(15_000)),
        ("ota-jobs", "search", "a and ".repeat(10_000)),
    ];
    let answered = beside_good_clients("the dearest searches", &server, || {
        let mut answered = [0, 0];
        for _ in 0..10 {
            for (resource, action, expression) in &expressions {
                for page in [1, 2, 1_000_000] {
                    let body = json!({ "expression": expression, "pagination": { "pageNo": page, "pageSize": 200 } });
                    let path = format!("/connect-service/v2.1/{resource}?action={action}&orgId=north");
                    let response =
                        server.anonymous().request("POST", &path).header("apim-accesstoken", &token).json(&body).send().expect(200);
                    let code = response.json()["code"].as_u64();
                    assert!(matches!(code, Some(0 | 24_400)), "{action}: {}", response.text());
                    answered[usize::from(code == Some(0))] += 1;
                }
            }
        }
        // And the native lists, from places that aren't there.
        for path in [
            "/api/v1/products/pump/devices?limit=1000",
            "/api/v1/tasks?limit=1000",
            "/api/v1/products/pump/devices?limit=1000&cursor=zzzz",
        ] {
            let status = client.get(path).status;
            assert!(matches!(status, 200 | 400), "{path}: {status}");
        }
        for limit in ["0", "1001", "18446744073709551616", "-1", "1e9"] {
            client.get(&format!("/api/v1/tasks?limit={limit}")).refused(400);
        }
        answered
    });
    println!("{} searches answered, {} refused, over {DEVICES} devices", answered[1], answered[0]);
}
