//! Numbers and tables as people read them.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

/// `1234567` as `1.23 M`.
pub fn count(value: u64) -> String {
    let value = value as f64;
    for (unit, factor) in [("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)] {
        if value >= factor {
            return format!("{:.2} {unit}", value / factor);
        }
    }
    format!("{value}")
}

/// Bytes in KiB or MiB.
pub fn bytes(value: u64) -> String {
    match value {
        0..1024 => format!("{value} B"),
        1024..1_048_576 => format!("{:.1} KiB", value as f64 / 1024.0),
        _ => format!("{:.1} MiB", value as f64 / 1_048_576.0),
    }
}

/// A share as a percentage.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// A mean and half of its interval, to three digits of the latter: `+1.55 ± 0.531`.
pub fn with_interval(mean: f64, half_width: f64) -> String {
    let digits = match half_width.log10().floor() {
        power if power.is_finite() => (2.0 - power).clamp(0.0, 8.0) as usize,
        _ => 4,
    };
    format!("{mean:+.digits$} ± {half_width:.digits$}")
}

/// Seconds as `1 m 05 s`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0..60 if seconds < 10.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} m {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} m", whole / 3600, whole % 3600 / 60),
    }
}

/// Lines above, below and under the header.
const LINES: TableStyle = TableStyle::new()
    .top_border(LineStyle::none().fill('─').junction('─'))
    .header_separator(LineStyle::none().fill('─').junction('─'))
    .bottom_border(LineStyle::none().fill('─').junction('─'));

/// A table; columns of numbers after the first are aligned to the right.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let is_number = |cell: &String| {
        let first = cell.chars().next();
        first.is_none_or(|first| first.is_ascii_digit() || "+-−–".contains(first))
    };
    let mut table = Table::new();
    table.load_style(LINES).set_header(header);
    for (index, column) in table.column_iter_mut().enumerate().skip(1) {
        if rows.iter().filter_map(|row| row.get(index)).all(is_number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.add_rows(rows);
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_and_numbers_end_where_the_others_of_their_column_do() {
        let rows = [["a", "7 of 8", "short"], ["b", "–", "not so short"]];
        let text = table(
            &["", "count", "what it is"],
            rows.map(|row| row.map(String::from).to_vec()),
        );
        let at = |word: &str| {
            let line = text.lines().find(|line| line.contains(word)).unwrap();
            line[..line.find(word).unwrap()].chars().count()
        };
        assert_eq!(at("short"), at("not so"), "{text}");
        assert_eq!(at("7 of 8") + 5, at("–"), "{text}");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1.23 M");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(percent(0.87654), "87.65 %");
        assert_eq!(duration(4.25), "4.2 s");
        assert_eq!(duration(65.0), "1 m 05 s");
        assert_eq!(duration(3700.0), "1 h 01 m");
        assert_eq!(with_interval(1.5537, 0.5308), "+1.554 ± 0.531");
        assert_eq!(with_interval(-57.27, 1.2184), "-57.27 ± 1.22");
        assert_eq!(with_interval(120.0, 1800.0), "+120 ± 1800");
        assert_eq!(with_interval(1.0, 0.0), "+1.0000 ± 0.0000");
    }
}
