//! What a new operator pastes next: the main job, from an image to a check, with this server's own address.

use crate::auth::AdminTokenOrigin;

/// Shell lines that work as they are, in another shell and another folder.
pub(super) fn lines(address: &str, admin_token: &AdminTokenOrigin) -> String {
    let token = match admin_token {
        AdminTokenOrigin::Environment => "export SLUICEGATE_ADMIN_TOKEN=…   # the one this server was started with".to_owned(),
        AdminTokenOrigin::Kept(path) | AdminTokenOrigin::Made(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            format!("export SLUICEGATE_ADMIN_TOKEN=$(cat '{}')", path.display())
        }
    };
    let path = match std::env::current_exe() {
        Ok(program) => format!("export PATH=\"{}:$PATH\"\n", program.parent().unwrap_or(&program).display()),
        Err(_) => String::new(),
    };
    format!(
        r#"{path}{token}
export SLUICEGATE_SERVER={address}
head -c 1000000 /dev/urandom > image.bin
FIRMWARE=$(sluicegate firmware push image.bin --product thermostat --version 2.0 --json | sed -n 's/.*"id": "\([0-9a-f]\{{24\}}\)".*/\1/p' | head -1)
TASK=$(curl -s {address}/api/v1/tasks -H "Authorization: Bearer $SLUICEGATE_ADMIN_TOKEN" -d '{{"product_id":"thermostat","type":1,"identify":0,"firmware_id":"'$FIRMWARE'","from_versions":["1.0"],"maximum_concurrency":10}}' | sed -n 's/.*"id":"\([0-9a-f]\{{24\}}\)".*/\1/p')
sluicegate task start $TASK
DEVICE=$(sluicegate token issue --role device --product thermostat --device device-1)
curl -s {address}/api/v1/check -H "Authorization: Bearer $DEVICE" -d '{{"product_id":"thermostat","device_id":"device-1","type":1,"identify":0,"version":"1.0"}}'"#
    )
}
