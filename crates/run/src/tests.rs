use std::collections::BTreeMap;
use std::time::Duration;

use eagleray_base::Kind;
use eagleray_store::Store;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::claim::{self, Claimant, End};
use crate::event::{CAUSES, Event};
use crate::heartbeat::Heartbeat;
use crate::ledger::read_joined;
use crate::timeline::Timeline;
use crate::{Ledger, account, is_current, paths, read_before, read_ledger, stop};

fn store(name: &str) -> Store {
    Store::open(&format!("memory://run-{name}")).unwrap()
}

fn event(value: Value) -> Event {
    serde_json::from_value(value).unwrap()
}

fn elsewhere(pid: u32) -> Claimant {
    Claimant { host: "another-host".into(), pid, take_over: false, other: serde_json::Map::new() }
}

#[test]
fn a_second_driver_on_the_host_of_a_live_one_is_refused_and_told_why() {
    let store = store("second");
    let me = Claimant::of_this_process("here");
    assert_eq!(claim::claim(&store, &me, || Ok(None)).unwrap().attempt, 1);
    let error = claim::claim(&store, &me, || Ok(None)).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(
        error.message().contains("attempt 1 (host here") && error.hint().unwrap().contains("--take-over"),
        "{error}"
    );
    let taken = claim::claim(&store, &Claimant { take_over: true, ..me }, || {
        Ok(Some("checkpoints/step-000000010/0001-0001".to_owned()))
    })
    .unwrap();
    assert_eq!(
        (taken.attempt, is_current(&store, 1).unwrap(), is_current(&store, 2).unwrap()),
        (2, false, true)
    );
}

#[test]
fn a_driver_that_ended_or_whose_process_is_gone_is_replaced() {
    let store = store("gone");
    // No process has this number: Linux gives none above 2^22.
    let gone = Claimant { pid: 1 << 30, ..Claimant::of_this_process("here") };
    claim::claim(&store, &gone, || Ok(None)).unwrap();
    let me = Claimant::of_this_process("here");
    assert_eq!(claim::claim(&store, &me, || Ok(None)).unwrap().attempt, 2);
    claim::finish(&store, 2, &End { outcome: "stopped".into(), step: 5, ended_us: 0 }).unwrap();
    assert_eq!(claim::claim(&store, &me, || Ok(None)).unwrap().attempt, 3);
    assert_eq!(claim::end_of(&store, 2).unwrap().unwrap().step, 5);
}

#[test]
fn a_process_id_used_again_is_not_the_driver() {
    let store = store("reused");
    let first = claim::claim(&store, &Claimant::of_this_process("here"), || Ok(None)).unwrap();
    let mut text: Value = serde_json::from_slice(&store.get("attempts/0001.json").unwrap()).unwrap();
    assert_eq!(text["pid_started"], json!(first.pid_started.unwrap()));
    text["pid_started"] = json!(1);
    store.put("attempts/0001.json", text.to_string()).unwrap();
    assert_eq!(claim::claim(&store, &Claimant::of_this_process("here"), || Ok(None)).unwrap().attempt, 2);
}

#[test]
fn a_driver_elsewhere_is_alive_while_its_heart_beats() {
    let store = store("elsewhere");
    let claimed = claim::claim(&store, &elsewhere(1), || Ok(None)).unwrap();
    assert!(claim::is_alive(&store, &claimed, "here").unwrap());
    let mut old = claimed;
    old.claimed_us = 1;
    assert!(!claim::is_alive(&store, &old, "here").unwrap());
    let heartbeat = Heartbeat::start(&store, 1, Duration::from_millis(1)).unwrap();
    assert!(claim::is_alive(&store, &old, "here").unwrap());
    assert!(!heartbeat.superseded());
    let taking = Claimant { take_over: true, ..Claimant::of_this_process("here") };
    claim::claim(&store, &taking, || Ok(None)).unwrap();
    while !heartbeat.superseded() {
        std::thread::yield_now();
    }
}

#[test]
fn a_heart_that_was_stopped_beats_no_more() {
    let store = store("stopped-heart");
    drop(Heartbeat::start(&store, 1, Duration::from_millis(1)).unwrap());
    store.delete(&paths::alive(1)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(store.head(&paths::alive(1)).unwrap().is_none());
}

#[test]
fn a_driver_in_another_container_of_the_same_host_name_is_not_taken_for_dead() {
    let store = store("container");
    let mut claimed = claim::claim(&store, &elsewhere(1), || Ok(None)).unwrap();
    claimed.claimant.host = "here".to_owned();
    claimed.claimant.pid = u32::MAX;
    assert!(!claim::is_alive(&store, &claimed, "here").unwrap());
    claimed.init_started = Some(u64::MAX);
    assert!(claim::is_alive(&store, &claimed, "here").unwrap());
}

#[test]
fn of_drivers_that_start_at_once_exactly_one_claims() {
    let store = store("at-once");
    let claimed = std::thread::scope(|scope| {
        let start = || claim::claim(&store, &Claimant::of_this_process("here"), || Ok(None)).is_ok();
        let drivers: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        drivers.into_iter().map(|driver| usize::from(driver.join().unwrap())).sum::<usize>()
    });
    assert_eq!(claimed, 1);
}

#[test]
fn a_ledger_goes_on_after_what_is_there_and_reads_back_in_order() {
    let store = store("ledger");
    for t in [1.0, 2.0] {
        let mut ledger = Ledger::open(&store, 1, "driver").unwrap();
        ledger.flush().unwrap();
        ledger
            .append(&json!([{"t": t, "kind": "failure"}, {"t": t + 0.5, "kind": "failure"}]).to_string())
            .unwrap();
        ledger.flush().unwrap();
    }
    let objects: Vec<String> = store.list("ledger").unwrap().into_iter().map(|object| object.path).collect();
    assert_eq!(objects, ["ledger/0001/driver-000001.jsonl", "ledger/0001/driver-000002.jsonl"]);
    let times: Vec<f64> = read_ledger(&store).unwrap().iter().map(|event| event.t).collect();
    assert_eq!(times, [1.0, 1.5, 2.0, 2.5]);
    assert!(Ledger::open(&store, 1, "driver").unwrap().append("{}").is_err());
}

#[test]
fn what_an_attempt_wrote_after_the_next_was_claimed_does_not_count() {
    let store = store("superseded");
    claim::claim(&store, &elsewhere(1), || Ok(None)).unwrap();
    let second = claim::claim(&store, &Claimant { take_over: true, ..elsewhere(2) }, || Ok(None)).unwrap();
    let until = second.claimed_us as f64 / 1e6;
    let mut ledger = Ledger::open(&store, 1, "driver").unwrap();
    ledger
        .append(
            &json!([{"t": until - 1.0, "kind": "failure"}, {"t": until + 1.0, "kind": "failure"}])
                .to_string(),
        )
        .unwrap();
    ledger.flush().unwrap();
    assert_eq!(read_ledger(&store).unwrap().len(), 1);
}

#[test]
fn what_came_before_is_the_furthest_step_and_the_anomalies_that_count() {
    let store = store("before");
    claim::claim(&store, &elsewhere(1), || Ok(None)).unwrap();
    let second = claim::claim(&store, &Claimant { take_over: true, ..elsewhere(2) }, || Ok(None)).unwrap();
    let until = second.claimed_us as f64 / 1e6;
    assert_eq!(read_before(&store).unwrap().reached, 0);
    // More objects than one thread reads; those of the second attempt count too, though it did not get as far.
    for attempt in [1, 2] {
        let mut ledger = Ledger::open(&store, attempt, "driver").unwrap();
        for step in 1..=20 / attempt {
            let t = until - 30.0 + f64::from(step) + 20.0 * f64::from(attempt - 1);
            let told =
                json!([{"t": t, "kind": "step", "step": step}, {"t": t, "kind": "anomaly", "step": step}]);
            ledger.append(&told.to_string()).unwrap();
            ledger.flush().unwrap();
        }
    }
    let mut late = Ledger::open(&store, 1, "driver").unwrap();
    late.append(&json!({"t": until + 1.0, "kind": "step", "step": 99}).to_string()).unwrap();
    late.flush().unwrap();
    let before = read_before(&store).unwrap();
    let all = read_ledger(&store).unwrap();
    let anomalies: Vec<Event> = all.into_iter().filter(|event| event.kind == "anomaly").collect();
    assert_eq!((before.reached, before.anomalies.len()), (20, 30));
    assert_eq!(before.anomalies, anomalies);
}

#[test]
fn a_damaged_line_is_named() {
    let store = store("damaged");
    store.put("ledger/0001/driver-000001.jsonl", "{\"t\":1,\"kind\":\"x\"}\n{\"t\":2,\n").unwrap();
    let error = read_ledger(&store).unwrap_err();
    assert!(error.message().contains("driver-000001.jsonl` line 2"), "{error}");
}

#[test]
fn a_flush_whose_answer_was_lost_is_not_written_twice() {
    let store = store("lost-answer");
    let mut ledger = Ledger::open(&store, 1, "driver").unwrap();
    ledger.append(r#"{"t":1.0,"kind":"failure"}"#).unwrap();
    store.put("ledger/0001/driver-000001.jsonl", "{\"t\":1.0,\"kind\":\"failure\"}\n").unwrap();
    ledger.flush().unwrap();
    assert_eq!(read_ledger(&store).unwrap().len(), 1);
}

#[test]
fn events_added_after_an_answer_was_lost_are_the_only_ones_written_again() {
    let store = store("lost-answer-then-more");
    let mut ledger = Ledger::open(&store, 1, "driver").unwrap();
    ledger.append(r#"{"t":1.0,"kind":"failure"}"#).unwrap();
    store.put("ledger/0001/driver-000001.jsonl", "{\"t\":1.0,\"kind\":\"failure\"}\n").unwrap();
    ledger.append(r#"{"t":2.0,"kind":"failure"}"#).unwrap();
    ledger.flush().unwrap();
    let times: Vec<f64> = read_ledger(&store).unwrap().iter().map(|event| event.t).collect();
    assert_eq!(times, [1.0, 2.0]);
    assert_eq!(store.list("ledger").unwrap().len(), 2);
}

#[test]
fn an_object_of_another_writer_hides_no_event() {
    let store = store("other-writer");
    let mut ledger = Ledger::open(&store, 1, "driver").unwrap();
    ledger.append(r#"{"t":2.0,"kind":"failure"}"#).unwrap();
    store.put("ledger/0001/driver-000001.jsonl", "{\"t\":1.0,\"kind\":\"failure\"}\n").unwrap();
    ledger.flush().unwrap();
    let times: Vec<f64> = read_ledger(&store).unwrap().iter().map(|event| event.t).collect();
    assert_eq!(times, [1.0, 2.0]);
}

#[test]
fn what_a_ledger_comes_to_is_put_once_in_a_while_and_read_instead_of_it() {
    let store = store("told");
    let attempt = claim::claim(&store, &elsewhere(1), || Ok(None)).unwrap().attempt;
    let mut ledger = Ledger::open(&store, attempt, "driver").unwrap();
    let say = |ledger: &mut Ledger, events: &[Value]| {
        for event in events {
            ledger.append(&event.to_string()).unwrap();
        }
        ledger.flush().unwrap();
    };
    let begun = 4e9;
    for step in 1..=300 {
        let t = begun + f64::from(step);
        say(&mut ledger, &[json!({"t": t, "kind": "step", "step": step, "rank": 0})]);
        if step % 100 == 0 {
            say(&mut ledger, &[json!({"t": t, "kind": "anomaly", "step": step})]);
        }
    }
    let wanted = read_before(&store).unwrap();
    assert_eq!((wanted.reached, wanted.anomalies.len()), (300, 3));
    let told: Value = serde_json::from_slice(&store.get(&paths::told(attempt)).unwrap()).unwrap();
    assert_eq!((&told["objects"], &told["reached"]), (&json!(256), &json!(254)));
    // The first objects are not read any more; without what was put they are again.
    store.put(&paths::ledger_object(attempt, "driver", 7), "damaged").unwrap();
    assert_eq!(read_before(&store).unwrap(), wanted);
    drop(ledger);
    let mut again = Ledger::open(&store, attempt, "driver").unwrap();
    say(&mut again, &[json!({"t": begun + 400.0, "kind": "step", "step": 301, "rank": 0})]);
    assert_eq!(read_before(&store).unwrap().reached, 301);
    assert!(store.head(&paths::ledger_object(attempt, "driver", 304)).unwrap().is_some());
    store.delete(&paths::told(attempt)).unwrap();
    assert_eq!(read_before(&store).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn what_was_put_by_a_driver_that_had_been_taken_over_does_not_count() {
    let store = store("told-late");
    let first = claim::claim(&store, &elsewhere(1), || Ok(None)).unwrap();
    let taking = Claimant { take_over: true, ..Claimant::of_this_process("here") };
    claim::claim(&store, &taking, || Ok(None)).unwrap();
    let mut ledger = Ledger::open(&store, first.attempt, "driver").unwrap();
    let claimed = first.claimed_us as f64 / 1e6;
    for step in 1..=300 {
        // All but the first are of a time after the second driver's claim.
        let t = if step == 1 { claimed } else { claimed + 1e6 };
        ledger.append(&json!({"t": t, "kind": "step", "step": step, "rank": 0}).to_string()).unwrap();
        ledger.flush().unwrap();
    }
    assert!(store.head(&paths::told(first.attempt)).unwrap().is_some());
    assert_eq!(read_before(&store).unwrap().reached, 1);
}

#[test]
fn hundreds_of_objects_read_back_in_order() {
    let store = store("many");
    let mut ledger = Ledger::open(&store, 1, "driver").unwrap();
    for t in 0..500 {
        ledger.append(&json!({"t": t, "kind": "failure"}).to_string()).unwrap();
        ledger.flush().unwrap();
    }
    let times: Vec<f64> = read_ledger(&store).unwrap().iter().map(|event| event.t).collect();
    assert_eq!(times, (0..500).map(f64::from).collect::<Vec<_>>());
}

#[test]
fn the_stored_forms_are_frozen() {
    let store = Store::open(&std::path::absolute("tests/golden").unwrap().display().to_string()).unwrap();
    let run = self::store("golden");
    for (from, to) in [
        ("0001.json", "attempts/0001.json"),
        ("0001.end.json", "attempts/0001.end.json"),
        ("driver-000001.jsonl", "ledger/0001/driver-000001.jsonl"),
    ] {
        run.put(to, store.get(from).unwrap()).unwrap();
    }
    let claim = claim::all(&run).unwrap().remove(0);
    assert_eq!(serde_json::to_vec_pretty(&claim).unwrap(), store.get("0001.json").unwrap());
    let end = claim::end_of(&run, 1).unwrap().unwrap();
    assert_eq!(serde_json::to_vec(&end).unwrap(), store.get("0001.end.json").unwrap());
    let account = account::of_store(&run).unwrap();
    assert_eq!((account.steps, account.steps_planned, account.tokens), (2, 2, 512));
    assert_eq!((account.train_loss.loss, account.validation.loss), (vec![5.5, 5.25], vec![5.125]));
    assert_eq!(account.checkpoints[0]["bytes"], 4096);
    let seconds = [("setup", 4.25), ("compute", 3.25), ("data_wait", 0.25), ("checkpoint_stall", 0.25)];
    for (cause, seconds) in seconds.into_iter().chain([("validation", 0.5), ("unattributed", 0.5)]) {
        assert!((account.shares[cause] - seconds / 9.0).abs() < 1e-6, "{cause}: {}", account.shares[cause]);
    }
}

#[test]
fn a_listing_reads_only_the_end_of_the_ledger() {
    let store = store("summary");
    claim::claim(&store, &elsewhere(1), || Ok(Some("checkpoints/step-000000007/0001-0001".into()))).unwrap();
    assert_eq!(crate::runs::summary(&store).unwrap().steps, 7);
    let mut ledger = Ledger::open(&store, 1, "driver").unwrap();
    store.put("ledger/0001/driver-000001.jsonl", "damaged long ago").unwrap();
    ledger.append(r#"{"t":1.0,"kind":"step","step":9}"#).unwrap();
    ledger.flush().unwrap();
    let summary = crate::runs::summary(&store).unwrap();
    assert_eq!((summary.steps, summary.attempts, summary.state.name()), (9, 1, "running"));
}

/// Two ranks, two steps each, a kill after the second, and a second attempt that does it again.
fn killed_run() -> Vec<Event> {
    let mut events = Vec::new();
    for (attempt, offset) in [(1, 100.0), (2, 130.0)] {
        events.push(json!({"t": offset, "kind": "attempt_start", "attempt": attempt}));
        events.push(
            json!({"t": offset, "kind": "generation", "attempt": attempt, "generation": 0, "world": 2}),
        );
        for rank in 0..2 {
            let common = json!({"attempt": attempt, "rank": rank, "generation": 0});
            let mut push = |value: Value| {
                let mut merged = common.as_object().unwrap().clone();
                merged.extend(value.as_object().unwrap().clone());
                events.push(Value::Object(merged));
            };
            push(
                json!({"t": offset + 4.0, "kind": "span", "cause": "setup", "start": offset, "end": offset + 4.0}),
            );
            for step in 1..=2 {
                let start = offset + 4.0 + f64::from(step - 1) * 3.0;
                push(
                    json!({"t": start + 3.0, "kind": "step", "step": step, "start": start, "end": start + 3.0,
                    "data_wait": 0.5, "compute": 2.25, "checkpoint_stall": 0.25, "recompute": attempt == 2 && step == 1,
                    "loss": 5.0 - f64::from(step), "tokens": 600, "order_digest": format!("{step:016x}"), "token_digest": "ff"}),
                );
            }
        }
    }
    events.into_iter().map(event).collect()
}

#[test]
fn a_killed_run_is_accounted_second_by_second() {
    let account = account::of_events(&killed_run(), &[], &[], &Value::Null);
    // Two ranks for 10 + 20 (between the attempts) + 10 seconds.
    let share = |seconds: f64| seconds / 80.0;
    let close = |cause: &str, seconds: f64| {
        let found = account.shares[cause];
        assert!((found - share(seconds)).abs() < 1e-9, "{cause}: {found} is not {seconds} s");
    };
    close("setup", 16.0);
    close("data_wait", 4.0);
    close("compute", 13.5);
    close("recompute", 4.5);
    close("checkpoint_stall", 2.0);
    close("idle", 40.0);
    close("unattributed", 0.0);
    assert_eq!(account.train_loss.steps, [1, 2]);
    assert_eq!((account.steps, account.tokens), (2, 1200));
    assert!((account.tokens_per_second - 200.0).abs() < 1e-9);
    assert!((account.step_shares["data_wait"] - 0.5 / 3.0).abs() < 1e-9);
}

/// 300 seconds of four ranks, a validation after every 50 steps, and a rank that died in between.
fn long_run(store: &Store) {
    let attempt = claim::claim(store, &elsewhere(1), || Ok(None)).unwrap().attempt;
    let begun = 4e9;
    let mut ledger = Ledger::open(store, attempt, "driver").unwrap();
    let say = |ledger: &mut Ledger, value: Value| ledger.append(&value.to_string()).unwrap();
    let mut t = begun;
    for generation in 0..2 {
        say(&mut ledger, json!({"t": t, "kind": "generation", "generation": generation, "world": 4}));
        for step in 1..=150 {
            for rank in 0..4 {
                let stall = if step % 20 == 0 { 0.5 } else { 0.0 };
                say(
                    &mut ledger,
                    json!({"t": t + 1.0, "kind": "step", "rank": rank, "generation": generation, "start": t, "end": t + 1.0,
                    "step": generation * 100 + step, "data_wait": 0.0625, "compute": 0.875 - stall, "checkpoint_stall": stall,
                    "recompute": generation == 1 && step <= 50, "loss": 3.0, "tokens": 512, "order_digest": "ab",
                    "token_digest": "cd", "memory": {"a": [1, 2, 3]}}),
                );
            }
            t += 1.0;
            if step % 50 == 0 {
                for rank in 0..4 {
                    say(
                        &mut ledger,
                        json!({"t": t + 2.0, "kind": "span", "cause": "validation", "rank": rank, "generation": generation,
                        "start": t, "end": t + 2.0}),
                    );
                }
                t += 2.0;
            }
            ledger.flush().unwrap();
        }
        say(
            &mut ledger,
            json!({"t": t + 5.0, "kind": "failure", "generation": generation, "reason": "a worker died"}),
        );
        t += 20.0;
    }
    ledger.flush().unwrap();
}

#[test]
fn an_account_of_joined_steps_is_that_of_all_of_them() {
    let store = store("joined");
    long_run(&store);
    let claims = claim::all(&store).unwrap();
    let (all, joined) = (read_ledger(&store).unwrap(), read_joined(&store, &claims).unwrap());
    assert_eq!(all.iter().filter(|event| event.kind == "step").count(), 1200);
    let of_others = joined.iter().filter(|event| event.kind == "step" && event.rank != Some(0)).count();
    // Each rank but the first in stretches of ten seconds at most, some of which the readers cut.
    assert!((90..200).contains(&of_others), "{of_others}");
    let of = |events: &[Event]| account::of_events(events, &claims, &[None], &Value::Null);
    let (wanted, found) = (of(&all), of(&joined));
    assert_eq!(
        (found.steps, found.tokens, &found.train_loss, &found.digests, &found.attempts),
        (wanted.steps, wanted.tokens, &wanted.train_loss, &wanted.digests, &wanted.attempts)
    );
    let close = |a: &BTreeMap<&str, f64>, b: &BTreeMap<&str, f64>, within: f64| {
        for cause in a.keys().chain(b.keys()) {
            let (a, b) = (a.get(cause).unwrap_or(&0.0), b.get(cause).unwrap_or(&0.0));
            assert!((a - b).abs() < within, "{cause}: {a} {b}");
        }
    };
    close(&found.shares, &wanted.shares, 1e-6);
    close(&found.step_shares, &wanted.step_shares, 1e-6);
    // A stall lies somewhere within its stretch: a band is a second and a half, of four ranks.
    for (found, wanted) in found.bands.iter().zip(&wanted.bands) {
        close(found, wanted, 1.0);
    }
}

#[test]
fn steps_that_were_lost_count_once_they_are_done_again() {
    let claimed = |attempt: u32, resumed_from: Value| -> claim::Claim {
        let claim = json!({"format": "eagleray.claim", "format_version": 1, "attempt": attempt, "claimed_us": 100_000_000,
            "pid_started": null, "resumed_from": resumed_from, "host": "a", "pid": 1});
        serde_json::from_value(claim).unwrap()
    };
    let claims = [claimed(1, Value::Null), claimed(2, json!("checkpoints/step-000000001/0001-0001"))];
    let ends = [None, None];
    let (first, both) = (&killed_run()[..killed_run().len() / 2], killed_run());
    let steps = |events: &[Event], claims: &[claim::Claim]| {
        account::of_events(events, claims, &ends[..claims.len()], &Value::Null).train_loss.steps
    };
    assert_eq!(steps(first, &claims[..1]), [1, 2]);
    assert_eq!(steps(first, &claims), [1]);
    assert_eq!(steps(&both, &claims), [1, 2]);
    let account = account::of_events(first, &claims, &ends, &Value::Null);
    assert_eq!((account.steps, account.tokens), (1, 600));
}

#[test]
fn an_anomaly_that_a_resume_comes_to_again_is_listed_once() {
    let told = |t: f64, step: u64, action: &str| {
        let positions = [8 * step - 8, 8 * step];
        event(json!({"t": t, "kind": "anomaly", "attempt": 1, "writer": "driver", "rank": 0, "step": step,
            "positions": positions, "action": action, "reason": "the loss is not finite"}))
    };
    let events = [told(1.0, 4, "skip"), told(2.0, 6, "skip"), told(3.0, 4, "skip"), told(4.0, 9, "rollback")];
    let account = account::of_events(&events, &[], &[], &Value::Null);
    let listed: Vec<(u64, &str)> = account
        .anomalies
        .iter()
        .map(|seen| (seen["step"].as_u64().unwrap(), seen["action"].as_str().unwrap()))
        .collect();
    assert_eq!(listed, [(4, "skip"), (6, "skip"), (9, "rollback")]);
}

#[test]
fn a_rank_that_leaves_leaves_when_the_loss_was_seen() {
    let events = [
        json!({"t": 0.0, "kind": "generation", "attempt": 1, "generation": 0, "world": 2}),
        json!({"t": 10.0, "kind": "span", "cause": "compute", "attempt": 1, "rank": 0, "start": 0.0, "end": 10.0}),
        json!({"t": 10.0, "kind": "span", "cause": "compute", "attempt": 1, "rank": 1, "start": 0.0, "end": 10.0}),
        json!({"t": 10.0, "kind": "failure", "attempt": 1, "generation": 0}),
        json!({"t": 14.0, "kind": "generation", "attempt": 1, "generation": 1, "world": 1}),
        json!({"t": 15.0, "kind": "span", "cause": "reform", "attempt": 1, "rank": 0, "start": 10.0, "end": 15.0}),
    ];
    let timeline = Timeline::of(&events.map(event), &[]);
    assert!((timeline.total - 25.0).abs() < 1e-9);
    assert!((timeline.shares()["reform"] - 0.2).abs() < 1e-9);
    assert!(timeline.shares()["unattributed"].abs() < 1e-9);
}

#[test]
fn an_attempt_that_died_before_it_said_a_word_was_idle_time_of_the_next_ones_ranks() {
    let events = [
        json!({"t": 40.0, "kind": "generation", "attempt": 2, "world": 2}),
        json!({"t": 50.0, "kind": "span", "cause": "setup", "attempt": 2, "start": 30.0, "end": 50.0}),
    ];
    let timeline = Timeline::of(&events.map(event), &[(1, 10.0), (2, 30.0)]);
    assert!((timeline.start - 10.0).abs() < 1e-9 && (timeline.total - 80.0).abs() < 1e-9);
    assert!((timeline.shares()["idle"] - 0.5).abs() < 1e-9);
    assert!(timeline.shares()["unattributed"].abs() < 1e-9);
    assert!(Timeline::of(&[], &[(1, 10.0)]).total.abs() < 1e-9);
}

#[test]
fn an_elastic_worlds_ranks_are_counted_while_they_are_members() {
    let span = |rank: u32, start: f64, end: f64| json!({"t": end, "kind": "span", "cause": "compute", "attempt": 1, "rank": rank, "start": start, "end": end});
    let generation = |t: f64, world: u32| json!({"t": t, "kind": "generation", "attempt": 1, "world": world});
    let values = [
        generation(0.0, 2),
        span(0, 0.0, 10.0),
        span(1, 0.0, 10.0),
        generation(10.0, 1),
        span(0, 10.0, 20.0),
    ];
    let mut events: Vec<Event> = values.into_iter().map(event).collect();
    events.sort_by(|a, b| a.t.total_cmp(&b.t));
    let timeline = Timeline::of(&events, &[]);
    assert!((timeline.total - 30.0).abs() < 1e-9);
    assert!((timeline.shares()["compute"] - 1.0).abs() < 1e-9);
}

proptest! {
    #[test]
    fn shares_sum_to_one_and_none_is_negative_whatever_the_spans(
        spans in prop::collection::vec((0_usize..12, 0_u32..3, 0.0_f64..100.0, -1.0_f64..50.0), 1..40),
    ) {
        let mut events: Vec<Event> = spans.iter().map(|&(cause, rank, start, length)| {
            let cause = CAUSES.get(cause).copied().unwrap_or("something new");
            event(json!({"t": start, "kind": "span", "cause": cause, "attempt": 1, "rank": rank, "start": start, "end": start + length}))
        }).collect();
        events.sort_by(|a, b| a.t.total_cmp(&b.t));
        let timeline = Timeline::of(&events, &[]);
        let shares = timeline.shares();
        prop_assert!(shares.values().all(|&share| share >= -1e-12));
        if timeline.total > 0.0 {
            prop_assert!((shares.values().sum::<f64>() - 1.0).abs() < 1e-6);
            let banded: f64 = timeline.bands.iter().flat_map(|band| band.values()).sum();
            prop_assert!((banded - timeline.total).abs() < 1e-6 * timeline.total.max(1.0));
        }
        let doubled: Vec<Event> = events.iter().flat_map(|event| [event.clone(), event.clone()]).collect();
        let doubled = Timeline::of(&doubled, &[]);
        prop_assert!((doubled.total - timeline.total).abs() < 1e-9);
        for (cause, share) in doubled.shares() {
            prop_assert!((share - shares[cause]).abs() < 1e-9, "{}", cause);
        }
    }
}

#[test]
fn a_driver_sees_that_it_is_asked_to_stop_and_no_other_attempt_does() {
    let store = store("asked");
    assert!(stop::ask(&store).unwrap().is_none(), "nobody is at work");
    let first = claim::claim(&store, &Claimant::of_this_process("here"), || Ok(None)).unwrap().attempt;
    let heartbeat = Heartbeat::start(&store, first, Duration::from_millis(1)).unwrap();
    assert!(!heartbeat.stop_asked());
    assert_eq!(stop::ask(&store).unwrap().unwrap().attempt, first);
    while !heartbeat.stop_asked() {
        std::thread::yield_now();
    }
    claim::finish(&store, first, &End { outcome: "stopped".into(), step: 3, ended_us: 0 }).unwrap();
    assert!(stop::ask(&store).unwrap().is_none(), "it has ended");
    let taking = Claimant { take_over: true, ..Claimant::of_this_process("here") };
    let second = claim::claim(&store, &taking, || Ok(None)).unwrap().attempt;
    assert!(!stop::is_asked(&store, second).unwrap());
}
