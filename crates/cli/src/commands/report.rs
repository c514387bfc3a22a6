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
    let mut line = |name: &str, value: String| {
        let _ = writeln!(shown, "  {name:<12} {value}");
    };
    line("steps", format!("{} of {}", account.steps, account.steps_planned));
    if let (Some(first), Some(last)) = (account.validation.loss.first(), account.validation.loss.last()) {
        line("validation", format!("loss {first:.4} → {last:.4}"));
    }
    if let (Some(first), Some(last)) = (account.train_loss.loss.first(), account.train_loss.loss.last()) {
        line("training", format!("loss {first:.4} → {last:.4}"));
    }
    line("speed", format!("{:.0} tokens/s, {} tokens", account.tokens_per_second, account.tokens));
    line(
        "time",
        format!(
            "{} in {} attempt(s)",
            units::format_seconds((account.ended - account.began).max(0.0)),
            account.attempts.len()
        ),
    );
    line("checkpoints", format!("{} committed", account.checkpoints.len()));
    shown.push_str("\n  where the time went\n");
    let mut shares: Vec<_> = account.shares.iter().filter(|(_, share)| **share > 0.0).collect();
    shares.sort_by(|a, b| b.1.total_cmp(a.1));
    for (cause, share) in shares {
        let bar = "█".repeat((share * 40.0).round() as usize);
        let _ = writeln!(shown, "    {:<18} {:>6.2} %  {bar}", cause.replace('_', " "), share * 100.0);
    }
    if let Some(wait) = account.step_shares.get("data_wait") {
        let _ = writeln!(shown, "  of step time, waiting for data: {:.2} %", wait * 100.0);
    }
    let _ = writeln!(shown, "\n  page: {page}");
    shown
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
    fn the_page_asks_the_network_for_nothing() {
        assert_eq!(PAGE.matches(MARK).count(), 1);
        for outside in ["http://", "https://", "src=", "@import", "fetch("] {
            let allowed = outside == "http://"
                && PAGE.matches(outside).count() == PAGE.matches("http://www.w3.org/2000/svg").count();
            assert!(allowed || !PAGE.contains(outside), "{outside}");
        }
    }
}
