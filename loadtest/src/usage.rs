//! What the server's process takes of the machine, as Linux tells it; elsewhere nothing is told.

use std::time::Duration;

/// A process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Processor time since it began, its own and the kernel's for it.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// `None` where there is no such process, or nobody says.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::read(&stat, rustix::param::clock_ticks_per_second(), rustix::param::page_size() as u64)
    }

    /// Reads `/proc/[pid]/stat`, proc(5).
    fn read(stat: &str, ticks_per_s: u64, page_bytes: u64) -> Option<Self> {
        // The name, in parentheses, may hold anything; what follows it begins with the third field.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = field(14)? + field(15)?;
        Some(Self { cpu: Duration::from_millis(ticks * 1_000 / ticks_per_s.max(1)), resident_bytes: field(24)? * page_bytes })
    }
}

/// A server over a run, in which it may be killed and started again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UsageOverRun {
    pid: u32,
    last: Usage,
    /// Of the process under `pid`, before the run.
    cpu_before: Duration,
    /// Of processes that are gone.
    cpu_past: Duration,
    pub(crate) resident_first_bytes: u64,
    pub(crate) resident_max_bytes: u64,
}

impl UsageOverRun {
    pub(crate) fn note(&mut self, pid: u32, usage: Usage) {
        if self.pid == 0 {
            self.cpu_before = usage.cpu;
            self.resident_first_bytes = usage.resident_bytes;
        } else if self.pid != pid {
            self.cpu_past = self.cpu();
            self.cpu_before = Duration::ZERO;
        }
        (self.pid, self.last) = (pid, usage);
        self.resident_max_bytes = self.resident_max_bytes.max(usage.resident_bytes);
    }

    /// Processor time since the first note; what a killed process took after its last note is missing.
    pub(crate) fn cpu(&self) -> Duration {
        self.cpu_past + self.last.cpu.saturating_sub(self.cpu_before)
    }

    pub(crate) fn is_known(&self) -> bool {
        self.pid != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let stat = "17 (a ) (b) R 1 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 55 1000000 300 18446744073709551615 1 1";
        assert_eq!(Usage::read(stat, 100, 4_096), Some(Usage { cpu: Duration::from_secs(2), resident_bytes: 300 * 4_096 }));
        assert_eq!(Usage::read("17 (a) R 1", 100, 4_096), None);
    }

    #[test]
    fn processor_time_goes_on_over_a_restart() {
        let usage = |cpu_s, resident_bytes| Usage { cpu: Duration::from_secs(cpu_s), resident_bytes };
        let mut over_run = UsageOverRun::default();
        assert!(!over_run.is_known());
        over_run.note(1, usage(10, 5));
        over_run.note(1, usage(13, 9));
        over_run.note(2, usage(1, 4));
        over_run.note(2, usage(2, 6));
        assert_eq!(over_run.cpu(), Duration::from_secs(5));
        assert_eq!((over_run.resident_first_bytes, over_run.resident_max_bytes), (5, 9));
    }
}
