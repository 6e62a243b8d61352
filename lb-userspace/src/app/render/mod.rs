//! Text for people. Pure: everything here is made of what `-o json` prints.

mod explanation;
mod maps;
mod report;
mod served;
mod status;
mod tuning;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

pub use self::explanation::{explanation, flow};
pub use self::maps::{maps, verification};
pub use self::report::{findings, report};
pub use self::served::{backends, routes};
pub use self::status::status;
pub use self::tuning::tuning;

/// `1 route`, `2 routes`, `2 Ingresses`.
pub(in crate::app) fn plural(n: usize, word: &str) -> String {
    let end = match word {
        _ if n == 1 => "",
        word if word.ends_with('s') => "es",
        _ => "s",
    };
    format!("{n} {word}{end}")
}

/// The table's text, without the blanks around it: who pipes it on wants none.
fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end())).collect()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}
