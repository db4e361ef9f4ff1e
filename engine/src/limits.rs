//! Every bound of the engine in one place, so that the sum can be seen.

/// What the engine accepts at most. Each bound says what it protects and what a larger value costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a product, device, organization, tag, group or application name. Held in memory once per entity.
    pub id_bytes_max: usize,
    /// Bytes of a version. Held once per distinct version of a component, and in each device that runs it.
    pub version_bytes_max: usize,
    /// Characters of a task's or firmware's name.
    pub name_chars_max: usize,
    /// Characters of a description, and of what a device says in a report.
    pub text_chars_max: usize,
    /// Bytes of a URL.
    pub url_bytes_max: usize,
    /// Components of one device.
    pub components_per_device_max: usize,
    /// Attributes, tags, groups and asset nodes of one device, each.
    pub details_per_device_max: usize,
    /// Bytes of one attribute or tag value.
    pub value_bytes_max: usize,
    /// From-versions of one task.
    pub from_versions_max: usize,
    /// Devices, groups, tag or attribute values that one scope may name.
    pub scope_entries_max: usize,
    /// Asset trees of one scope.
    pub asset_trees_max: usize,
    /// Parts of one asset path of a device, the tree included.
    pub asset_depth_max: usize,
    /// Products of all organizations. Each costs about 300 bytes.
    pub products_max: usize,
    /// Devices of all products. Each costs about 200 bytes; the memory of the machine is the real bound.
    pub devices_max: usize,
    /// Tasks not deleted. Each costs about 1 kB, and more for a snapshot of a large fleet.
    pub tasks_max: usize,
    /// Firmware of all products. Each costs about 500 bytes.
    pub firmware_max: usize,
    /// Unexpired tokens of all organizations. Each costs about 250 bytes: the default is a bound of some 1.2 GB.
    pub tokens_max: usize,
    /// Subscriptions of all organizations. Each costs about 500 bytes, and a delivery in flight.
    pub subscriptions_max: usize,
    /// Events kept; older ones are dropped. Kept on disk, the newest 16,384 of them in memory too.
    pub events_max: u64,
    /// Commands that wait for the writer. Beyond it, callers are told to come back.
    pub queue_max: usize,
    /// Permits of the whole server; absent means no bound but the tasks' own.
    pub permits_max: Option<u32>,
    /// Seconds from an offer to its result where the task doesn't say.
    pub default_timeout_s: u32,
    /// What a device held by a cap is told to wait; spread by half of it to either side.
    pub cap_retry_after_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            id_bytes_max: 128,
            version_bytes_max: 128,
            name_chars_max: 256,
            text_chars_max: 1024,
            url_bytes_max: 2048,
            components_per_device_max: 32,
            details_per_device_max: 128,
            value_bytes_max: 1024,
            from_versions_max: 256,
            scope_entries_max: 100_000,
            asset_trees_max: 5,
            asset_depth_max: 32,
            products_max: 1_000_000,
            devices_max: 50_000_000,
            tasks_max: 1_000_000,
            firmware_max: 1_000_000,
            tokens_max: 5_000_000,
            subscriptions_max: 1_000,
            events_max: 1_000_000,
            queue_max: 65_536,
            permits_max: None,
            default_timeout_s: 7_200,
            cap_retry_after_s: 30,
        }
    }
}
