//! `eagleray report`: what happened in a run and where its time went, as text, JSON and a page.

use std::fmt::Write as _;

use eagleray_base::{Error, Result, units};
use eagleray_run::account::{self, Account};
use eagleray_run::{paths, runs};
use eagleray_store::Store;
use serde_json::Value;

use crate::output::Output;

/// The page, with a mark where the account goes.
const PAGE: &str = include_str!("../../assets/report.html");
const MARK: &str = "/*ACCOUNT*/null";

/// Tell what happened in a run: losses, speed, and where the time went.
#[derive(clap::Args)]
pub(crate) struct Report {
    /// The run's store
    #[arg(value_name = "RUN")]
    path: String,
    /// Where report.html and report.json go; by default `report/` in the run's store
    #[arg(long, value_name = "DIR")]
    output: Option<String>,
}

impl Report {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let store = Store::open(&self.path)?;
        if !runs::is_run(&store)? {
            return Err(Error::not_found(format!("`{}` is not a run's store", store.url()))
                .with_hint("give the `store` of the run's spec; `eagleray runs DIR` lists runs"));
        }
        let account = account::of_store(&store)?;
        let json = serde_json::to_value(&account)
            .map_err(|error| Error::internal(format!("the report: {error}")))?;
        let (place, html, plain) = match &self.output {
            Some(folder) => (Store::open(folder)?, "report.html", "report.json"),
            None => (store, paths::REPORT_HTML, paths::REPORT_JSON),
        };
        place.put(plain, format!("{json:#}\n"))?;
        place.put(html, page(&json))?;
        if output.is_json() {
            output.json(&json);
        } else {
            output.print(&text(&account, &place.url_of(html)));
        }
        Ok(())
    }
}

/// The page with the account in it. `<` cannot stand in a script's data: a name might close the element.
fn page(account: &Value) -> String {
    PAGE.replace(MARK, &account.to_string().replace('<', "\\u003c"))
}

fn text(account: &Account, page: &str) -> String {
    let mut shown = format!("run {} · {} · {}\n\n", account.name, account.state.name(), account.store);
    for (name, value) in lines(account) {
        let _ = writeln!(shown, "  {name:<12} {value}");
    }
    let mut shares: Vec<_> = account.shares.iter().filter(|(_, share)| **share > 0.0).collect();
    shares.sort_by(|a, b| b.1.total_cmp(a.1));
    if !shares.is_empty() {
        shown.push_str("\n  where the time went\n");
    }
    for (cause, share) in shares {
        let bar = "█".repeat((share * 40.0).round() as usize);
        let line = format!("    {:<18} {:>6.2} %  {bar}", cause.replace('_', " "), share * 100.0);
        let _ = writeln!(shown, "{}", line.trim_end());
    }
    if let Some(wait) = account.step_shares.get("data_wait").filter(|_| account.steps > 0) {
        let _ = writeln!(shown, "  of step time, waiting for data: {:.2} %", wait * 100.0);
    }
    let _ = writeln!(shown, "\n  page         {page}");
    shown
}

/// What there is to say in a line each.
fn lines(account: &Account) -> Vec<(&'static str, String)> {
    let planned = if account.steps_planned > 0 { account.steps_planned.to_string() } else { "?".to_owned() };
    let mut lines = vec![("steps", format!("{} of {planned}", account.steps))];
    for (name, curve) in [("validation", &account.validation), ("training", &account.train_loss)] {
        if let (Some(first), Some(last)) = (curve.loss.first(), curve.loss.last()) {
            lines.push((name, format!("loss {first:.4} → {last:.4}")));
        }
    }
    if account.tokens > 0 {
        let speed = format!("{:.0} tokens/s, {} tokens", account.tokens_per_second, account.tokens);
        lines.push(("speed", speed));
    }
    let seconds = units::format_seconds((account.ended - account.began).max(0.0));
    lines.push(("time", format!("{seconds} in {}", counted(account.attempts.len(), "attempt"))));
    for row in account.attempts.iter().skip(1) {
        let (number, step) = (&row["attempt"], &row["first_step"]);
        let again = row["steps_recomputed"].as_u64().unwrap_or(0) as usize;
        let from = step.as_u64().map_or("no step yet".to_owned(), |step| format!("from step {}", step - 1));
        lines.push(("", format!("attempt {number} {from}, {} done again", counted(again, "step"))));
    }
    if !account.failures.is_empty() {
        let last =
            account.failures.last().and_then(|failure| failure["reason"].as_str()).unwrap_or("unknown");
        lines.push(("failures", format!("{}, the last: {last}", account.failures.len())));
    }
    if let Some(last) = account.anomalies.last() {
        let text = |name: &str| last[name].as_str().unwrap_or("unknown");
        let (count, step) = (account.anomalies.len(), &last["step"]);
        lines.push((
            "anomalies",
            format!("{count}, the last at step {step}: {} ({})", text("reason"), text("action")),
        ));
    }
    lines.push(("checkpoints", format!("{} committed", account.checkpoints.len())));
    lines
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_holds_the_account_and_nothing_can_close_its_script() {
        let page = page(&json!({"name": "</script><b>"}));
        assert!(!page.contains(MARK));
        assert!(page.contains("\\u003c/script>"));
        assert!(!page.contains("</script><b>"));
    }

    #[test]
    fn the_last_anomaly_has_a_line() {
        let seen = json!({"step": 26, "reason": "the loss is 9.1000", "action": "skip"});
        let account = Account { anomalies: vec![seen], ..Account::default() };
        let wanted = "1, the last at step 26: the loss is 9.1000 (skip)".to_owned();
        assert!(lines(&account).contains(&("anomalies", wanted)));
    }

    #[test]
    fn the_page_asks_the_network_for_nothing() {
        assert_eq!(PAGE.matches(MARK).count(), 1);
        for outside in ["http://", "https://", "src=", "@import", "fetch("] {
            let allowed = outside == "http://"
                && PAGE.matches(outside).count() == PAGE.matches("http://www.w3.org/2000/svg").count();
            assert!(allowed || !PAGE.contains(outside), "{outside}");
        }
    }
}
