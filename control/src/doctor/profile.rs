//! What `hw-profiles` say of a driver: whether it binds AF_XDP sockets without copying, and why or since when.

const PROFILES: [&str; 5] = [
    include_str!("../../../hw-profiles/ice.toml"),
    include_str!("../../../hw-profiles/igb.toml"),
    include_str!("../../../hw-profiles/mlx5.toml"),
    include_str!("../../../hw-profiles/veth.toml"),
    include_str!("../../../hw-profiles/virtio-net.toml"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    pub driver: &'static str,
    pub zero_copy: bool,
    /// The profile's own reason.
    pub why: &'static str,
}

/// A field's value and the comment beside it.
fn field(text: &'static str, name: &str) -> Option<(&'static str, &'static str)> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='))?;
    let (value, why) = line.split_once('#').unwrap_or((line, ""));
    Some((value.trim().trim_matches('"'), why.trim()))
}

fn read(text: &'static str) -> Option<Profile> {
    let ((driver, _), (zero_copy, why)) = (field(text, "driver")?, field(text, "zero_copy")?);
    Some(Profile { driver, zero_copy: zero_copy == "true", why })
}

/// Drivers' names differ by a suffix from what `ethtool -i` says of some: mlx5_core, virtio_net.
pub fn of(driver: &str) -> Option<Profile> {
    let plain = |name: &str| name.replace(['_', '-'], "").trim_end_matches("core").to_owned();
    PROFILES.into_iter().filter_map(read).find(|profile| plain(profile.driver) == plain(driver))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_found_by_what_the_kernel_calls_its_driver() {
        let found = ["ice", "igb", "mlx5_core", "veth", "virtio_net"].map(|driver| of(driver).expect(driver));
        assert!(found.iter().all(|profile| !profile.why.is_empty()), "{found:?}");
        assert_eq!((of("ice").unwrap().zero_copy, of("veth").unwrap().zero_copy), (true, false));
        assert_eq!(of("e1000"), None);
    }
}
