//! Tables for a terminal.

use unicode_width::UnicodeWidthStr;

use super::style::{Paint, Style};

/// Which side of a column its texts stand at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings.
#[derive(Debug, Clone)]
pub struct Table {
    headings: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new<const N: usize>(headings: [(&str, Align); N]) -> Self {
        Self {
            headings: headings.into_iter().map(|(text, align)| (text.to_owned(), align)).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; what is missing is empty.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(|it| super::text::harmless(&it)).collect());
    }

    /// Whether it has no rows.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, without a line end after the last row.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let headings: Vec<String> = self.headings.iter().map(|it| it.0.clone()).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().chain(std::iter::once(&headings)).filter_map(|row| row.get(column));
            cells.map(|it| it.width()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let mut lines = vec![paint.paint(Style::Strong, &self.line(&headings, &widths))];
        lines.extend(self.rows.iter().map(|row| self.line(row, &widths)));
        lines.join("\n")
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (column, &width) in widths.iter().enumerate() {
            let cell = cells.get(column).map_or("", String::as_str);
            let padding = " ".repeat(width.saturating_sub(cell.width()));
            let gap = if column == 0 { "" } else { "  " };
            line.push_str(&match self.headings[column].1 {
                Align::Left => format!("{gap}{cell}{padding}"),
                Align::Right => format!("{gap}{padding}{cell}"),
            });
        }
        line.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[test]
    fn columns_are_as_wide_as_their_widest_text() {
        let mut table = Table::new([("what", Align::Left), ("size", Align::Right)]);
        table.row(["日本".to_owned(), "1".to_owned()]);
        table.row(["entrypoint".to_owned(), "12 MiB".to_owned()]);
        let shown = table.render(Paint::of(&Environment::default(), false));
        assert_eq!(shown, "what          size\n日本             1\nentrypoint  12 MiB");
    }
}
