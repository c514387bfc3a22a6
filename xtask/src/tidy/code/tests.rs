use super::*;

fn messages(path: &str, text: &str) -> Vec<String> {
    check(path, text).into_iter().map(|finding| format!("{}: {}", finding.place, finding.message)).collect()
}

fn function(lines: usize) -> String {
    format!(
        "    pub(crate) async fn long<T>(\n        value: T,\n    ) {{\n{}    }}\n",
        "        go();\n\n".repeat((lines - 4) / 2)
    )
}

#[test]
fn a_short_file_without_leftovers_is_fine() {
    assert_eq!(messages("crates/a/src/lib.rs", "//! Text.\n\nfn main() {}\n"), Vec::<String>::new());
}

#[test]
fn a_long_file_is_a_warning_and_a_very_long_one_an_error() {
    assert_eq!(file_length("a.rs", &"\n".repeat(600)), None);
    assert!(!file_length("a.rs", &"\n".repeat(601)).expect("is long").fatal);
    assert!(file_length("a.rs", &"\n".repeat(1001)).expect("is very long").fatal);
}

#[test]
fn a_function_above_the_limit_is_found_with_its_name_and_line() {
    let text = format!("impl A {{\n{}}}\n", function(72));
    let found = messages("src/a.rs", &text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("src/a.rs:2: `long` has 72 lines"), "{found:?}");
    assert_eq!(messages("src/a.rs", &format!("impl A {{\n{}}}\n", function(70))), Vec::<String>::new());
}

#[test]
fn a_reason_above_a_function_allows_its_length() {
    let text = format!("impl A {{\n    // long: one row for each key\n    #[inline]\n{}}}\n", function(100));
    assert_eq!(messages("src/a.rs", &text), Vec::<String>::new());
}

#[test]
fn tests_may_hold_long_functions() {
    assert_eq!(messages("src/a/tests.rs", &function(200)), Vec::<String>::new());
    assert_eq!(
        messages("src/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(200))),
        Vec::<String>::new()
    );
}

#[test]
fn a_declaration_has_no_length() {
    let text = format!(
        "trait A {{\n    fn a(&self) -> u8;\n    fn b(\n        &self,\n    ) -> u8;\n{}}}\n",
        "\n".repeat(90)
    );
    assert_eq!(messages("src/a.rs", &text), Vec::<String>::new());
}

#[test]
fn leftovers_are_found_as_words() {
    for left in LEFTOVERS {
        assert_eq!(leftovers("a.py", &format!("x = 1\n# {left} later\n")).len(), 1, "{left}");
        assert_eq!(leftovers("a.py", &format!("# un{left}\n")), Vec::new(), "{left}");
    }
}

#[test]
fn a_path_of_one_machine_is_found_where_a_path_begins() {
    for part in MACHINE_PATHS {
        assert_eq!(machine_paths("a.md", &format!("see `{part}x`\n")).len(), 1, "{part}");
        assert_eq!(machine_paths("a.md", &format!("see `<built>{part}x`\n")), Vec::new(), "{part}");
    }
}

#[test]
fn the_low_floors_know_no_clock_and_no_file() {
    let text = "//! std::fs\nuse std::time::Duration;\nuse std::time::Instant;\n#[cfg(test)]\nuse std::fs;\n";
    assert_eq!(messages("crates/order/src/a.rs", text).len(), 1);
    assert_eq!(messages("crates/run/src/a.rs", text), Vec::<String>::new());
}

#[test]
fn files_are_the_business_of_the_store() {
    let text = "//! std::fs\nuse std::fs::File;\n";
    assert_eq!(
        messages("crates/run/src/a.rs", text),
        ["crates/run/src/a.rs:2: `std::fs` outside the store: use `eagleray_store::Store`"]
    );
    for path in ["crates/store/src/a.rs", "crates/cli/src/a.rs", "crates/run/src/a/tests.rs"] {
        assert_eq!(messages(path, text), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn a_long_function_of_python_is_found_and_a_reason_allows_it() {
    let function = |lines: usize| {
        format!(
            "class A:\n    async def long(\n        self,\n    ) -> None:\n{}\n\n",
            "        go()\n".repeat(lines - 3)
        )
    };
    let found = messages("a.py", &format!("{}    def other(self) -> None: ...\n", function(71)));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("a.py:2: `long` has 71 lines"), "{found:?}");
    assert_eq!(messages("a.py", &function(70)), Vec::<String>::new());
    assert_eq!(messages("a.py", &format!("# long: a table\n{}", function(90))), Vec::<String>::new());
}
