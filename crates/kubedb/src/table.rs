//! Tables as the original prints them: Go's tabwriter with least width 10, padding 3, spaces.

use jiff::Timestamp;

/// Least width of a column that another one follows, padding included.
const LEAST_WIDTH: usize = 10;
const PADDING: usize = 3;

/// Columns that remember their widths, so that rows of a watch line up with earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// Whether nothing was rendered yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.widths.is_empty()
    }

    /// Renders rows of equal length. The last cell is not padded.
    pub(crate) fn render(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (column, cell) in row.iter().enumerate() {
                let width = LEAST_WIDTH.max(cell.chars().count() + PADDING);
                match self.widths.get_mut(column) {
                    Some(known) => *known = width.max(*known),
                    None => self.widths.push(width),
                }
            }
        }
        rows.iter().map(|row| self.line(row) + "\n").collect()
    }

    fn line(&self, row: &[String]) -> String {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if column + 1 < row.len() {
                let width = self.widths.get(column).copied().unwrap_or_default();
                line.extend(std::iter::repeat_n(
                    ' ',
                    width.saturating_sub(cell.chars().count()),
                ));
            }
        }
        line
    }
}

/// Time since `then` as one number and unit: `32s`, `17m`, `3h`, `9d`, `2y`. Clocks may differ by a second.
pub(crate) fn age(then: Option<Timestamp>, now: Timestamp) -> String {
    let Some(then) = then else {
        return "<unknown>".to_owned();
    };
    let seconds = now.duration_since(then).as_secs();
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        86_400..31_536_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", seconds / 31_536_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[&[&str]]) -> Vec<Vec<String>> {
        text.iter()
            .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
            .collect()
    }

    /// Byte for byte what the guide shows.
    #[test]
    fn the_guides_tables_come_out() {
        let rows = rows(&[
            &["NAME", "DATABASE", "STATUS", "AGE"],
            &[
                "scheduled-pg-20180208-105341",
                "pg/scheduled-pg",
                "Succeeded",
                "32s",
            ],
        ]);
        assert_eq!(
            Table::default().render(&rows),
            "NAME                           DATABASE          STATUS      AGE\n\
             scheduled-pg-20180208-105341   pg/scheduled-pg   Succeeded   32s\n"
        );
    }

    #[test]
    fn short_columns_keep_the_least_width() {
        let rows = rows(&[
            &["NAME", "VERSION", "STATUS", "AGE"],
            &["quick-postgres", "9.6", "Running", "17m"],
        ]);
        assert_eq!(
            Table::default().render(&rows),
            "NAME             VERSION   STATUS    AGE\n\
             quick-postgres   9.6       Running   17m\n"
        );
    }

    #[test]
    fn later_rows_line_up_with_earlier_ones() {
        let mut table = Table::default();
        table.render(&rows(&[&["a-rather-long-name", "x"]]));
        assert_eq!(
            table.render(&rows(&[&["b", "y"]])),
            "b                    y\n"
        );
    }

    #[test]
    fn ages_have_one_unit() {
        let now: Timestamp = "2018-02-08T10:54:13Z".parse().unwrap();
        let ago = |seconds: i64| {
            let then = Timestamp::from_second(now.as_second() - seconds).unwrap();
            age(Some(then), now)
        };
        let steps = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_599, "59m"),
            (3_600, "1h"),
            (86_399, "23h"),
            (86_400, "1d"),
            (31_535_999, "364d"),
            (31_536_000, "1y"),
        ];
        for (seconds, text) in steps {
            assert_eq!(ago(seconds), text, "{seconds}");
        }
        assert_eq!(age(None, now), "<unknown>");
    }
}
