//! A view as text: what is on the screen, and what `--once` prints. Pure.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::Sort;
use super::view::View;

/// Rows of the shorter lists.
const FEW: usize = 8;

/// The view with so many routes at most.
pub fn text(view: &View, sort: Sort, routes: usize) -> String {
    let ready = if view.ready { "ready" } else { "NOT READY" };
    let mut text = format!(
        "{ready}, generation {}; {} requests/s, {}/s",
        view.generation,
        rate(view.requests),
        bytes(view.response_bytes)
    );
    for (class, n) in view.responses.iter().filter(|(_, n)| **n > 0.0) {
        text.push_str(&format!("  {class} {}", rate(*n)));
    }
    text.push('\n');

    let mut table = columns(&["ROUTE", "SERVICE", "REQ/S", "4XX", "5XX", "GONE", "P50 MS", "P99 MS"], 2);
    for route in view.routes.iter().take(routes) {
        let end = |end: &str| route.ends.get(end).map_or_else(String::new, |n| rate(*n));
        let name = format!("{} {}", route.ingress, route.path);
        table.add_row([
            name.trim_end().to_owned(),
            route.service.clone(),
            rate(route.requests),
            end("4xx"),
            end("5xx"),
            end("gone"),
            millis(route.p50_ms),
            millis(route.p99_ms),
        ]);
    }
    section(&mut text, &format!("Routes by {}", sort.name()), &table, view.routes.len(), routes);

    let mut table = columns(&["ENDPOINT", "SERVICE", "STATE", "FAILURES", "EJECTIONS"], 3);
    for endpoint in view.endpoints.iter().take(FEW) {
        let numbers = [endpoint.failures.to_string(), endpoint.ejections.to_string()];
        let [failures, ejections] = numbers;
        let words = [&endpoint.address, &endpoint.cluster, &endpoint.state].map(Clone::clone);
        table.add_row([&words[..], &[failures, ejections]].concat());
    }
    section(&mut text, "Endpoints", &table, view.endpoints.len(), FEW);

    let mut table = columns(&["WORKER", "CPU", "CONNECTIONS", "NEW/S", "REQ/S", "SHARE"], 0);
    for worker in &view.workers {
        table.add_row([
            worker.worker.to_string(),
            worker.cpu.to_string(),
            worker.connections.to_string(),
            rate(worker.accepted),
            rate(worker.requests),
            format!("{:.0} %", worker.share),
        ]);
    }
    section(&mut text, "Workers", &table, view.workers.len(), usize::MAX);

    for (title, heads, list) in
        [("XDP", ["REASON", "FRAMES/S"], &view.frames), ("Server names", ["NAME", "HELLOS/S"], &view.names)]
    {
        let mut table = columns(&heads, 1);
        for (name, n) in list.iter().take(FEW) {
            table.add_row([name.clone(), rate(*n)]);
        }
        section(&mut text, title, &table, list.len(), FEW);
    }
    text
}

/// A table whose columns from this one on are numbers.
fn columns(heads: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(heads.to_vec());
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn section(text: &mut String, title: &str, table: &Table, rows: usize, most: usize) {
    if rows == 0 {
        return;
    }
    let more = if rows > most { format!(" ({} more)", rows - most) } else { String::new() };
    text.push_str(&format!("\n{title}{more}\n"));
    for line in table.lines() {
        text.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
        text.push('\n');
    }
}

fn rate(n: f64) -> String {
    match n {
        n if n >= 10_000_000.0 => format!("{:.0}M", n / 1e6),
        n if n >= 10_000.0 => format!("{:.1}k", n / 1e3),
        n if n >= 10.0 || n == 0.0 => format!("{n:.0}"),
        n => format!("{n:.1}"),
    }
}

fn bytes(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        n => format!("{n:.0} B"),
    }
}

fn millis(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") })
}

#[cfg(test)]
mod tests {
    use super::super::view::Endpoint;
    use super::super::view::tests::some;
    use super::*;

    #[test]
    fn a_screen() {
        let mut view = some();
        view.endpoints.push(Endpoint {
            cluster: "d/web:80".into(),
            address: "10.0.0.1:80".into(),
            state: "ejected".into(),
            failures: 5,
            ejections: 1,
        });
        view.sort(Sort::Errors);
        insta::assert_snapshot!(text(&view, Sort::Errors, 1));
    }

    #[test]
    fn an_idle_daemon_has_nothing_to_list() {
        assert_eq!(text(&View::default(), Sort::Name, 9), "NOT READY, generation 0; 0 requests/s, 0 B/s\n");
    }

    #[test]
    fn numbers() {
        for (n, expect) in
            [(0.0, "0"), (0.25, "0.2"), (9.94, "9.9"), (12.4, "12"), (12_345.0, "12.3k"), (2.5e7, "25M")]
        {
            assert_eq!(rate(n), expect);
        }
    }
}
