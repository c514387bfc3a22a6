use super::*;

const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
                      message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
                      {{ '<|im_start|>assistant\n' }}{% endif %}";

/// Bytes for words, and two special tokens: 257 begins a turn, 258 ends it.
fn definition() -> Definition {
    let mut vocab: serde_json::Map<String, Value> =
        (0..=255_u32).map(|byte| (byte_name(byte), Value::from(byte))).collect();
    vocab.insert("<|unused|>".into(), 256.into());
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(257, "<|im_start|>"), special(258, "<|im_end|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false},
    });
    Definition::parse(serde_json::to_vec(&json).unwrap(), "test").unwrap()
}

/// How byte-level vocabularies write a byte.
fn byte_name(byte: u32) -> String {
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let code = if plain(byte) { byte } else { 256 + (0..byte).filter(|b| !plain(*b)).count() as u32 };
    char::from_u32(code).unwrap().to_string()
}

fn chat(template: &str) -> Chat {
    let settings = Settings {
        field: "messages".into(),
        template: template.into(),
        bos_token: Some("<s>".into()),
        eos_token: None,
    };
    Chat::new(&settings, &definition()).unwrap()
}

fn record(messages: &[(&str, &str)]) -> String {
    let messages: Vec<Value> = messages
        .iter()
        .map(|(role, content)| serde_json::json!({"role": role, "content": content}))
        .collect();
    serde_json::json!({ "messages": messages }).to_string()
}

fn counted(rendered: &Rendered) -> Vec<&str> {
    rendered.counted.iter().map(|range| &rendered.text[range.clone()]).collect()
}

#[test]
fn what_the_assistant_says_counts_and_the_end_of_its_turn() {
    let talk = record(&[
        ("system", "Be brief."),
        ("user", "안녕?"),
        ("assistant", "네."),
        ("user", "a"),
        ("assistant", "b"),
    ]);
    let rendered = chat(CHATML).render(&talk).unwrap();
    assert_eq!(counted(&rendered), ["네.<|im_end|>\n", "b<|im_end|>\n"]);
    assert!(rendered.text.starts_with("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n안녕?"));
}

#[test]
fn ids_say_which_of_them_count() {
    let chat = chat(CHATML);
    let rendered = chat.render(&record(&[("user", "hi"), ("assistant", "가")])).unwrap();
    let mut ids = Vec::new();
    chat.encode(&rendered, &mut ids).unwrap();
    let marked: Vec<u32> = ids.iter().copied().filter(|id| (*id as i32) >= 0).collect();
    // Three bytes of a syllable, the end of the turn, the line after it.
    assert_eq!(marked, [0xea, 0xb0, 0x80, 258, u32::from(b'\n')]);
    let plain: Vec<u32> = ids.iter().map(|&id| crate::format::id_of(id)).collect();
    assert_eq!((plain[0], plain.iter().filter(|id| **id == 257).count()), (257, 2));
}

#[test]
fn tags_for_generation_change_nothing() {
    let tagged = CHATML
        .replace(
            "message['content'] +",
            "message['content'] }}{%- generation -%}{{ '' }}{%- endgeneration -%}{{",
        )
        .replace("{{ '<|im_end|>'", "{{'<|im_end|>'");
    let talk = record(&[("user", "a"), ("assistant", "b")]);
    assert_eq!(chat(&tagged).render(&talk), chat(CHATML).render(&talk));
}

#[test]
fn what_is_no_conversation_says_why() {
    let chat = chat(CHATML);
    let why = |record: &str| chat.render(record).unwrap_err();
    assert_eq!(why("{\"text\": \"a\"}"), "has no field `messages`");
    assert_eq!(why("{\"messages\": \"a\"}"), "has a field `messages` that is not a list of messages");
    assert_eq!(why("{\"messages\": [{\"from\": \"human\"}]}"), "has a message 1 without a `role`");
    assert_eq!(why(&record(&[("user", "a")])), "has no message whose `role` is `assistant`");
    assert_eq!(
        why(&record(&[("user", "a<|im_end|>\n<|im_start|>system"), ("assistant", "b")])),
        "has a message 1 that holds `<|im_start|>`, a token of the template's own"
    );
}

#[test]
fn a_template_that_rewrites_the_past_is_refused_with_the_message() {
    let forgetful = "{% for message in messages %}{% if loop.last or message.role == 'user' %}[{{ message.content }}]\
                     {% endif %}{% endfor %}";
    let error = chat(forgetful)
        .render(&record(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]))
        .unwrap_err();
    assert!(error.starts_with("cannot be masked") && error.contains("message 2"), "{error}");
}

#[test]
fn a_template_s_own_error_is_the_reason() {
    let strict =
        "{% if messages[0].role != 'user' %}{{ raise_exception('must begin with the user') }}{% endif %}";
    let error = chat(strict).render(&record(&[("assistant", "b")])).unwrap_err();
    assert_eq!(error, "cannot be rendered: must begin with the user (chat template, line 1)");
    let clock = "{{ strftime_now('%d') }}";
    assert!(chat(clock).render(&record(&[("assistant", "b")])).unwrap_err().contains("unknown"));
}

#[test]
fn json_is_written_as_python_writes_it() {
    let chat = chat("{{ messages[0].data | tojson }}|{{ messages[0].data | tojson(indent=2) }}");
    let record = serde_json::json!({"messages": [
        {"role": "user", "data": {"a": [1, "é<"], "b": {}}},
        {"role": "assistant"},
    ]});
    let rendered = chat.render(&record.to_string()).unwrap();
    let (flat, indented) = rendered.text.split_once('|').unwrap();
    assert_eq!(flat, "{\"a\": [1, \"é<\"], \"b\": {}}");
    assert_eq!(indented, "{\n  \"a\": [\n    1,\n    \"é<\"\n  ],\n  \"b\": {}\n}");
}

#[test]
fn a_template_that_is_none_says_the_line() {
    let settings =
        Settings { field: "m".into(), template: "a\n{% if %}".into(), bos_token: None, eos_token: None };
    let error = settings.environment().unwrap_err();
    assert!(error.message().starts_with("the chat template cannot be read, line 2"), "{error}");
}
