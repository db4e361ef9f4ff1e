//! Tables for people.

/// Rows under their headings, each column as wide as it must be. Control characters, which a device may have sent, don't reach the
/// terminal.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let clean = |text: &str| -> String {
        let text: String = text.chars().map(|character| if character.is_control() { '?' } else { character }).collect();
        if text.is_empty() { "-".to_owned() } else { text }
    };
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut headings.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_stay_out() {
        let rows = [vec!["a".into(), String::new()], vec!["long name".into(), "x\u{1b}[2J".into()]];
        assert_eq!(table(&["NAME", "V"], &rows), "NAME       V\na          -\nlong name  x?[2J");
    }
}
