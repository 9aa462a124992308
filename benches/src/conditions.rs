//! Under which conditions was measured: machine, kernel, clock, memory. Reads /proc, changes nothing.

use crate::clock;
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Conditions {
    pub cpu: String,
    pub cores: String,
    /// With where the rate is from.
    pub tsc: String,
    pub kernel: String,
    /// Huge pages: who had them. Known after the run.
    pub pages: String,
    pub rounds: usize,
    pub date: String,
}

impl Conditions {
    pub fn now(rounds: usize, core: Option<usize>) -> Conditions {
        let unknown = || "unknown".to_owned();
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let cores = cpuinfo.matches("processor\t").count();
        let load = read("/proc/loadavg").and_then(|text| Some(text.split(' ').next()?.to_owned()));
        let on = core.map_or("not pinned".to_owned(), |core| format!("measured on core {core}"));
        let ghz = clock::tsc_ghz().map(|ghz| format!("{ghz:.3} GHz (the kernel's calibration: bogomips / 2000)"));
        Conditions {
            cpu: cpu(&cpuinfo),
            cores: format!("{cores}, {on}, load {} at the start", load.unwrap_or_else(unknown)),
            tsc: ghz.unwrap_or("none that is constant, so no ticks are given".to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            pages: String::new(),
            rounds,
            date: today(),
        }
    }

    /// Names and values.
    pub fn list(&self) -> [(&'static str, String); 7] {
        [
            ("CPU", self.cpu.clone()),
            ("cores", self.cores.clone()),
            ("TSC", self.tsc.clone()),
            ("kernel", self.kernel.clone()),
            ("huge pages", self.pages.clone()),
            ("rounds", format!("{}, all cases of a group in turns; medians", self.rounds)),
            ("date", self.date.clone()),
        ]
    }

    pub fn text(&self) -> String {
        self.list().map(|(name, value)| format!("{name}: {value}")).join("; ")
    }
}

pub fn read(file: &str) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

/// The first value of a field in a file of "name : value" lines.
pub fn field(file: &str, name: &str) -> Option<String> {
    value(&read(file)?, name).map(str::to_owned)
}

/// The same in its text.
fn value<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

/// Which kind of CPU there is. Virtual machines hide its name, but not what it is: of two "AMD EPYC" one has AVX-512.
fn cpu(cpuinfo: &str) -> String {
    let name = value(cpuinfo, "model name").unwrap_or("unknown");
    match value(cpuinfo, "cpu family").zip(value(cpuinfo, "model")) {
        Some((family, model)) => format!("{name}, family {family}, model {model}"),
        None => name.to_owned(),
    }
}

fn today() -> String {
    let day = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() / 86_400);
    let (year, month, day) = date(day as i64);
    format!("{year}-{month:02}-{day:02}")
}

/// Days since 1970 as a date (H. Hinnant, chrono-compatible low-level date algorithms, civil_from_days).
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let civil_month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + (civil_month <= 2) as i64, civil_month, day_of_year - (153 * month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_day_has_its_date() {
        assert_eq!(super::date(0), (1970, 1, 1));
        assert_eq!(super::date(20_148), (2025, 3, 1));
        assert_eq!(super::date(11_016), (2000, 2, 29));
    }

    #[test]
    fn cpus_of_one_name_are_told_apart() {
        let x86 = "cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nstepping\t: 1\n";
        assert_eq!(super::cpu(x86), "AMD EPYC, family 25, model 17");
        assert_eq!(super::cpu(&x86.replace("17", "1")), "AMD EPYC, family 25, model 1");
        assert_eq!(super::cpu("CPU part\t: 0xd40\n"), "unknown");
    }
}
