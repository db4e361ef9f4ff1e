//! The order to upgrade.

use super::envelope::message;
use serde::Serialize;
use sluicegate::model::Timestamp;

pub(crate) const METHOD: &str = "ota_create";
/// A dock and its aircraft.
pub(crate) const DEVICES_MAX: usize = 2;

/// One device of an order, in the fields and the order of the platform's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CreateDevice<'a> {
    pub(crate) sn: &'a str,
    pub(crate) product_version: &'a str,
    pub(crate) file_url: &'a str,
    pub(crate) md5: &'a str,
    /// The platform's example has more than half a gigabyte, and nothing says that images stay below four.
    pub(crate) file_size: u64,
    pub(crate) file_name: &'a str,
    /// 2: bring all modules to the version the device has; 3: a version of its own; 4: of a payload.
    pub(crate) firmware_upgrade_type: u8,
}

#[derive(Serialize)]
struct Create<'a> {
    devices: &'a [CreateDevice<'a>],
}

/// For [`services`](super::topic::services) of the gateway, also where the device is attached to it. At most [`DEVICES_MAX`] devices.
///
/// Sent again, it keeps its `bid`, so that a gateway can tell that it is the same order, and has a `tid` of its own.
pub(crate) fn ota_create(devices: &[CreateDevice<'_>], tid: &str, bid: &str, now: Timestamp) -> Vec<u8> {
    debug_assert!((1..=DEVICES_MAX).contains(&devices.len()), "an order is for one or two devices");
    message(tid, bid, METHOD, None, &Create { devices }, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The platform's own example.
    const EXAMPLE: &str = r#"
{
"bid":"8ca0ffa2-5e72-4078-8fa9-dc68216ff5d1",
"data":{
"devices":[
{
"file_name":"EvoNest-V1.2.0.69-20231215094829.Encrypt.uav",
"file_size":603696942,
"file_url":"http://192.168.1.1:9000/public/EvoNest-V1.2.0.69-20231215094829.Encrypt.uav",
"firmware_upgrade_type":3,
"md5":"d1c9dacec124abd350379eb44b9143e5",
"product_version":"1.2.0.69",
"sn":"NM1923221021"
}
]
},
"tid":"74045eba-bd24-4106-b455-d3577f3cbf52",
"timestamp":1654070968655,
"method":"ota_create"
}
"#;

    const DEVICE: CreateDevice<'_> = CreateDevice {
        sn: "NM1923221021",
        product_version: "1.2.0.69",
        file_url: "http://192.168.1.1:9000/public/EvoNest-V1.2.0.69-20231215094829.Encrypt.uav",
        md5: "d1c9dacec124abd350379eb44b9143e5",
        file_size: 603_696_942,
        file_name: "EvoNest-V1.2.0.69-20231215094829.Encrypt.uav",
        firmware_upgrade_type: 3,
    };
    const TID: &str = "74045eba-bd24-4106-b455-d3577f3cbf52";
    const BID: &str = "8ca0ffa2-5e72-4078-8fa9-dc68216ff5d1";
    const NOW: Timestamp = Timestamp(1_654_070_968_655);

    #[test]
    fn the_order_is_the_platforms_example_to_the_field() {
        let order = ota_create(&[DEVICE], TID, BID, NOW);
        assert_eq!(serde_json::from_slice::<Value>(&order).unwrap(), serde_json::from_str::<Value>(EXAMPLE).unwrap());
    }

    #[test]
    fn the_order_is_compact_and_its_slashes_are_bare() {
        let order = String::from_utf8(ota_create(&[DEVICE, DEVICE], TID, BID, NOW)).unwrap();
        assert!(order.contains(r#""file_url":"http://192.168.1.1:9000/public/EvoNest-"#), "{order}");
        assert!(!order.contains(['\\', '\n', ' ']), "{order}");
        assert_eq!(order.matches(r#""sn":"NM1923221021""#).count(), 2);
    }

    #[test]
    fn a_size_beyond_32_bits_stays_a_number() {
        for size in [u64::from(u32::MAX) + 1, u64::MAX] {
            let order = ota_create(&[CreateDevice { file_size: size, ..DEVICE }], TID, BID, NOW);
            let order: Value = serde_json::from_slice(&order).unwrap();
            assert_eq!(order["data"]["devices"][0]["file_size"].as_u64(), Some(size));
        }
    }

    #[test]
    fn texts_are_written_so_that_they_read_back() {
        let name = "\"EvoNest\"\\\n\u{1F681}";
        let order = ota_create(&[CreateDevice { file_name: name, ..DEVICE }], TID, BID, NOW);
        let order: Value = serde_json::from_slice(&order).unwrap();
        assert_eq!(order["data"]["devices"][0]["file_name"], name);
    }
}
