//! The command line.

use clap::{Args, Parser, Subcommand};
use std::time::Duration;

/// Drives a simulated fleet against a sluicegate server and proves its promises: the cap, the counts, the bytes.
///
/// Without arguments: starts the real server on a free port with a fresh folder, and upgrades 10,000 devices at most 300 at a time.
/// With --gateways: a fleet that is sent its upgrades over MQTT, and tells every two seconds how they go.
#[derive(Clone, Debug, Parser)]
#[command(name = "sluicegate-loadtest", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// One thing alone, rather than a rollout.
    #[command(subcommand)]
    pub(crate) single: Option<Single>,
    /// Devices of the fleet.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    pub(crate) devices: u32,
    /// Gateways over MQTT, instead of devices over HTTP.
    #[arg(long, value_name = "N", conflicts_with_all = ["devices", "url"], value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(crate) gateways: Option<u32>,
    /// Milliseconds from one progress message of a gateway to its next.
    #[arg(long, default_value_t = 2_000, value_name = "MS", requires = "gateways", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub(crate) progress_every_ms: u64,
    /// Progress messages of one upgrade, before its result.
    #[arg(long, default_value_t = 10, value_name = "N", requires = "gateways", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) progress_steps: u32,
    /// Server and gateways meet at this broker, mqtt://host:port, instead of the server's own listener. It must let anybody in.
    #[arg(long, value_name = "URL", requires = "gateways")]
    pub(crate) broker: Option<String>,
    /// Gateways fetch the image and check its digest; --connections of them at a time.
    #[arg(long, requires = "gateways")]
    pub(crate) download: bool,
    /// Connections kept open to the server; each carries one request at a time.
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) connections: u32,
    /// Bytes asked for by one range request.
    #[arg(long, default_value = "1MiB", value_name = "SIZE", value_parser = parse_size)]
    pub(crate) chunk_size: usize,
    /// Bytes of the image.
    #[arg(long, default_value = "8MiB", value_name = "SIZE", value_parser = parse_size)]
    pub(crate) image_size: usize,
    /// Devices that may upgrade at once: the task's maximum_concurrency [default: 300; of gateways all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cap: Option<u32>,
    /// Seconds from an offer to its deadline: the task's timeout_s. Devices that vanish hold their permit this long
    /// [default: 30; of gateways three times what an upgrade takes, and at least 60].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout_s: Option<u32>,
    /// The longest a device that was told to wait stays away, whatever it was told.
    #[arg(long, default_value_t = 2_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) wait_ms_max: u64,
    /// Fraction of the devices that take an offer and are never heard of again.
    #[arg(long, default_value_t = 0.01, value_name = "FRACTION", value_parser = parse_fraction)]
    pub(crate) vanish: f64,
    /// Fraction of the devices that send every check and report (gateways: every event) twice.
    #[arg(long, default_value_t = 0.02, value_name = "FRACTION", value_parser = parse_fraction)]
    pub(crate) repeat: f64,
    /// Fraction of the devices that report a failed installation.
    #[arg(long, default_value_t = 0.02, value_name = "FRACTION", value_parser = parse_fraction)]
    pub(crate) fail: f64,
    /// Drive this running server instead of an own one. Its admin token is taken from SLUICEGATE_ADMIN_TOKEN.
    #[arg(long, value_name = "URL", conflicts_with = "kill_after")]
    pub(crate) url: Option<String>,
    /// Kill the own server (SIGKILL) once this many devices have finished, and start it again on the same folder and port.
    #[arg(long, value_name = "N")]
    pub(crate) kill_after: Option<u32>,
    /// Kill the own server (SIGKILL) this many times at random moments, some of them while it starts; after each, what it had confirmed is
    /// looked for. Give it enough devices: the kills end with them, and a run without a single kill fails.
    #[arg(long, value_name = "N", conflicts_with_all = ["kill_after", "url", "gateways"], value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) kills: Option<u32>,
    /// What the image and the fleet's behaviour follow from.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Print the result as one JSON document on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is measured on its own, each on a server started for it.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub(crate) enum Single {
    /// What connections cost in memory that have made one check and then say nothing.
    Idle {
        #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
        connections: u32,
        #[arg(long)]
        tls: bool,
    },
    /// Devices that all come back at once: each connects, checks, and goes.
    Storm {
        #[arg(long, default_value_t = 50_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        devices: u32,
        /// They come evenly within this time, however the server does.
        #[arg(long, default_value_t = 3_000, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=600_000))]
        within_ms: u32,
        #[arg(long)]
        tls: bool,
    },
    /// Durable reports over connections that stay, each sending its next once the last is answered; beside checks in their place.
    Reports {
        #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=15_000))]
        connections: u32,
        /// Of each measurement.
        #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600))]
        seconds: u32,
    },
    /// More than the server can do: what it answers, whom it sends away, and how it comes back from it. Rates are of what arrives within a
    /// step; what arrives after it is late.
    Overload(Overload),
}

#[derive(Args, Clone, Debug, PartialEq)]
pub(crate) struct Overload {
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(256..=1_000_000))]
    pub(crate) devices: u32,
    /// Of each step.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) seconds: u32,
    /// What is asked, as multiples of what the server can do.
    #[arg(long, value_delimiter = ',', default_values_t = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 0.5], value_parser = parse_step)]
    pub(crate) steps: Vec<f64>,
    /// Devices that were told to come back later don't heed it.
    #[arg(long)]
    pub(crate) stubborn: bool,
}

impl Options {
    /// How many the fleet has, of whichever kind.
    pub(crate) fn members(&self) -> u32 {
        self.gateways.unwrap_or(self.devices)
    }

    pub(crate) fn cap(&self) -> u32 {
        self.cap.or(self.gateways).unwrap_or(300)
    }

    pub(crate) fn timeout_s(&self) -> u32 {
        self.timeout_s.unwrap_or(match self.gateways {
            None => 30,
            Some(_) => u32::try_from(3 * self.progress_every_ms * u64::from(self.progress_steps) / 1_000)
                .unwrap_or(86_400)
                .clamp(60, 86_400),
        })
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout_s()))
    }

    pub(crate) fn progress_every(&self) -> Duration {
        Duration::from_millis(self.progress_every_ms)
    }

    /// What clap can't check option by option.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let total = self.vanish + self.repeat + self.fail;
        if total > 1.0 {
            return Err(format!(
                "--vanish, --repeat and --fail are fractions of one fleet and add up to {total}; make them at most 1"
            ));
        }
        if self.kill_after.is_some_and(|after| after >= self.members()) {
            return Err(format!(
                "--kill-after must be less than the {} devices, or the kill would come after the end",
                self.members()
            ));
        }
        Ok(())
    }
}

fn parse_fraction(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|fraction| (0.0..=1.0).contains(fraction)).ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// Neither nothing nor so much that a device would have to ask faster than a clock ticks.
fn parse_step(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|step| (0.001..=1_000.0).contains(step))
        .ok_or_else(|| "expected a number from 0.001 to 1000".to_owned())
}

fn parse_size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        unit => return Err(format!("unknown unit {unit:?}; use bytes, KiB, MiB or GiB")),
    };
    let number: usize = digits.parse().map_err(|_| "expected a number, perhaps with KiB, MiB or GiB".to_owned())?;
    number
        .checked_mul(factor)
        .filter(|size| *size > 0)
        .ok_or_else(|| "expected at least one byte, and a number that fits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_works_without_arguments() {
        Options::command().debug_assert();
        let options = Options::parse_from(["loadtest"]);
        assert_eq!((options.members(), options.cap(), options.timeout_s(), options.image_size), (10_000, 300, 30, 8 << 20));
        assert_eq!(options.validate(), Ok(()));
    }

    #[test]
    fn gateways_may_all_upgrade_at_once_and_have_time_enough() {
        let options = Options::parse_from(["loadtest", "--gateways", "5000"]);
        assert_eq!((options.members(), options.cap(), options.timeout_s()), (5_000, 5_000, 60));
        let slow = Options::parse_from(["loadtest", "--gateways", "9", "--cap", "3", "--progress-steps", "50"]);
        assert_eq!((slow.members(), slow.cap(), slow.timeout_s()), (9, 3, 300));
        assert!(Options::try_parse_from(["loadtest", "--gateways", "5", "--devices", "5"]).is_err());
        assert!(Options::try_parse_from(["loadtest", "--broker", "mqtt://127.0.0.1:1883"]).is_err());
    }

    #[test]
    fn what_is_measured_alone_takes_no_option_of_a_rollout() {
        let single = Options::parse_from(["loadtest", "storm", "--devices", "9"]).single;
        assert_eq!(single, Some(Single::Storm { devices: 9, within_ms: 3_000, tls: false }));
        assert!(Options::try_parse_from(["loadtest", "--cap", "3", "idle"]).is_err());
        assert_eq!(Options::parse_from(["loadtest"]).single, None);
    }

    #[test]
    fn steps_of_an_overload_are_numbers_that_can_be_asked_for() {
        let steps = |text: &str| Options::try_parse_from(["loadtest", "overload", &format!("--steps={text}")]).ok()?.single;
        assert!(matches!(steps("0.5,4"), Some(Single::Overload(Overload { steps, .. })) if steps == [0.5, 4.0]));
        for refused in ["0", "-1", "1,0", "NaN", "inf", "1e9"] {
            assert_eq!(steps(refused), None, "{refused}");
        }
        assert!(matches!(Options::parse_from(["loadtest", "overload"]).single, Some(Single::Overload(_))));
    }

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        assert_eq!(parse_size("1000"), Ok(1000));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert!(parse_size("8MB").is_err_and(|message| message.contains("MiB")));
        assert!(parse_size("0").is_err());
        assert!(parse_size("99999999999999999999GiB").is_err());
    }

    #[test]
    fn fractions_beyond_the_whole_fleet_are_refused() {
        let options = Options::parse_from(["loadtest", "--vanish", "0.5", "--fail", "0.6"]);
        assert!(options.validate().is_err());
        assert!(Options::try_parse_from(["loadtest", "--fail", "1.5"]).is_err());
    }
}
