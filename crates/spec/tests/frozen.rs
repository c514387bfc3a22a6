//! The schema is frozen: a new knob is a decision, and shows up here.

#[test]
fn the_json_schema_is_frozen() {
    insta::assert_json_snapshot!(eagleray_spec::explain::schema());
}

#[test]
fn every_key_has_a_doc_line() {
    let keys = eagleray_spec::explain::keys();
    let bare: Vec<&str> = keys.iter().filter(|key| key.doc.is_empty()).map(|key| key.path.as_str()).collect();
    assert!(bare.is_empty(), "{bare:?}");
    assert!(keys.len() > 80, "{}", keys.len());
}

#[test]
fn the_defaults_are_frozen() {
    insta::assert_snapshot!(eagleray_spec::explain::show_defaults());
}
