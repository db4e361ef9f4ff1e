//! What the codes mean that gateways put into `result`. Those of firmware begin with 312; of each code, the first digit says who raised
//! it (3 is the dock).

/// The code in words, for people; of a code that isn't known, that it is one.
pub(super) fn described(code: i64) -> String {
    match words(code) {
        Some(words) => format!("{code} {words}"),
        None => format!("result {code}"),
    }
}

const fn words(code: i64) -> Option<&'static str> {
    Some(match code {
        -1 => "unknown error",
        312_001 => "consistency upgrade that the device did not ask for",
        312_002..=312_004 | 312_013 | 312_018..=312_021 | 312_024 => "upgrade failed",
        312_010 => "order differs from the protocol",
        312_012 => "wrong parameters",
        312_014 => "already updating",
        312_015 => "device is at work",
        312_016 => "transmission between dock and aircraft failed",
        312_017 => "version check failed",
        312_022 => "aircraft not found",
        312_023 => "aircraft outside the dock",
        312_025 => "old package could not be deleted",
        312_026 => "package could not be decompressed",
        312_027 => "no aircraft in the dock",
        312_028 => "device restarted during the upgrade",
        312_029 => "device is restarting",
        312_030 => "4G transmission is enabled",
        312_704 => "battery too low",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_code_is_named_and_another_is_shown_as_it_is() {
        for (code, text) in [
            (312_014, "312014 already updating"),
            (312_003, "312003 upgrade failed"),
            (312_704, "312704 battery too low"),
            (-1, "-1 unknown error"),
            (312_005, "result 312005"),
            (7, "result 7"),
            (i64::MIN, "result -9223372036854775808"),
        ] {
            assert_eq!(described(code), text);
        }
    }
}
