//! The figures as Markdown tables.

use crate::results::{Fairness, Figures, Measured, Results, Unit};
use std::fmt::Write;

/// The whole run: what it ran on, and a table for each kind of row.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = head(results);
    let mut heading = "";
    for row in &results.rows {
        if row.table != heading {
            heading = &row.table;
            text.push_str(&table_head(heading));
        }
        text.push_str(&line(row));
    }
    if !results.fairness.is_empty() {
        text.push_str(&fairness(&results.fairness));
    }
    text
}

/// The lines before the tables.
pub(crate) fn head(results: &Results) -> String {
    results.head.iter().fold(String::new(), |text, line| text + "- " + line + "\n")
}

/// What begins a table.
pub(crate) fn table_head(heading: &str) -> String {
    format!(
        "\n### {heading}\n\n\
         | | connections | processor time: ours | nginx's | ratio | (range) | both processors: ours | nginx's | ratio | rate: ours | nginx's | ratio \
         | p50 / p90 / p99: ours | nginx's | busy: ours, nginx |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    )
}

/// One line of a table.
pub(crate) fn line(row: &Measured) -> String {
    format!(
        "| {} | {} | {} | {} | **{:.2}** | {:.2}–{:.2} | {} | {} | **{:.2}** | {} | {} | {:.2} | {} | {} | {:.0} %, {:.0} % |\n",
        row.label,
        row.connections,
        cost(row.ours.unit_ns, row.unit),
        cost(row.nginx.unit_ns, row.unit),
        row.ratio,
        row.ratio_min,
        row.ratio_max,
        cost(row.ours.machine_unit_ns, row.unit),
        cost(row.nginx.machine_unit_ns, row.unit),
        row.machine_ratio,
        rate(&row.ours, row.unit),
        rate(&row.nginx, row.unit),
        row.rate_ratio,
        latencies(&row.ours),
        latencies(&row.nginx),
        row.ours.busy * 100.0,
        row.nginx.busy * 100.0,
    )
}

/// The table of fairness.
pub(crate) fn fairness(rows: &[Fairness]) -> String {
    let mut text = "\n### Device checks beside slow downloads\n\n\
                    | | checks alone: p50 / p90 / p99 | as the downloads begin | beside them | rate alone | as they begin | beside \
                    | downloads | they got |\n\
                    |---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for row in rows {
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.1} of {:.1} MiB/s |",
            row.server,
            latencies(&row.alone),
            latencies(&row.beginning),
            latencies(&row.beside),
            rate(&row.alone, Unit::Request),
            rate(&row.beginning, Unit::Request),
            rate(&row.beside, Unit::Request),
            row.downloads,
            row.downloaded / f64::from(1 << 20),
            row.wanted / f64::from(1 << 20),
        );
    }
    text
}

fn cost(unit_ns: f64, unit: Unit) -> String {
    match unit {
        Unit::Request => format!("{} µs/request", short(unit_ns / 1e3)),
        Unit::Kibibyte => format!("{} ns/KiB", short(unit_ns)),
    }
}

fn rate(figures: &Figures, unit: Unit) -> String {
    match unit {
        Unit::Request => format!("{}/s", with_commas(figures.rate)),
        Unit::Kibibyte => format!("{} MiB/s", with_commas(figures.rate / 1024.0)),
    }
}

fn latencies(figures: &Figures) -> String {
    let of = |latency_us: f64| short(latency_us / 1e3);
    figures.latency_us.map_or_else(|| "–".to_owned(), |[p50, p90, p99]| format!("{} / {} / {} ms", of(p50), of(p90), of(p99)))
}

/// Three digits that mean something.
fn short(value: f64) -> String {
    match value {
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn with_commas(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!([short(0.126), short(12.34), short(1234.5)], ["0.13", "12.3", "1234"]);
        assert_eq!([with_commas(7.0), with_commas(1234.0), with_commas(1_234_567.4)], ["7", "1,234", "1,234,567"]);
    }
}
