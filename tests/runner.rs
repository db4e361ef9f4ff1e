//! Black-box tests: each starts the real program on a free port with a folder of its own, and speaks to it as devices and operators
//! do. One program holds them all, so that no file is forgotten and linking is paid once.
//!
//! The engine's own tests carry the load; here stands what only the whole can show: the wire, the process, the disk, the crash.

#![expect(clippy::unwrap_used, reason = "a test that meets what it doesn't expect should end there and then")]

mod common;

mod access;
mod bad_input;
mod brokers;
mod brokers_events;
mod brokers_outages;
mod brokers_refusals;
mod catalog;
mod check_and_report;
mod client_certificates;
mod command_line;
mod damage;
mod enos_access;
mod enos_conversation;
mod enos_device_search;
mod enos_devices;
mod enos_firmware;
mod enos_fleet;
mod enos_job_fields;
mod enos_support;
mod enos_tasks;
mod event_queue;
mod event_schema;
mod events;
mod fair_use;
mod faults;
mod full_disk;
mod gateway_support;
mod gateways;
mod guessing;
mod hoarding;
mod hostile_clients;
mod hostile_http;
mod hostile_mqtt;
mod hostile_support;
mod hostile_urls;
mod http2;
mod http2_hostile;
mod huawei_login;
mod huawei_notifications;
mod huawei_operations;
mod huawei_refusals;
mod huawei_support;
mod image_range;
mod observability;
mod permits;
mod policies;
mod readme_tour;
mod restart;
mod signed_links;
mod tasks;
mod tenant_matrix;
mod tenant_mqtt;
mod tenant_rows;
mod tenants;
mod tls;
mod uploads;
mod webhooks;
mod xlink_clients;
mod xlink_conversation;
mod xlink_neighbours;
mod xlink_refusals;
mod xlink_support;
