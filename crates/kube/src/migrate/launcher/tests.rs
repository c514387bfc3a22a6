//! Commands that people write.

use super::*;

fn words(texts: &[&str]) -> Vec<Word> {
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| Word { text: (*text).into(), path: format!("command[{index}]") })
        .collect()
}

fn launched(texts: &[&str]) -> Launch {
    read(&words(texts)).unwrap_or_else(|(message, _)| panic!("{texts:?}: {message}"))
}

fn refused(texts: &[&str]) -> String {
    match read(&words(texts)) {
        Ok(launch) => panic!("{texts:?}: {launch:?}"),
        Err((message, hint)) => format!("{message}; {hint}"),
    }
}

#[test]
fn torchrun_is_read_in_all_its_forms() {
    for start in [
        &["torchrun"][..],
        &["/usr/local/bin/torchrun"],
        &["python3", "-u", "-m", "torch.distributed.run"],
        &["python", "-m", "torch.distributed.launch"],
    ] {
        for flags in
            [&["--nproc_per_node=8", "--nnodes=2:4"][..], &["--nproc-per-node", "8", "--nnodes", "2:4"]]
        {
            let tail = [
                "--rdzv_backend=c10d",
                "--rdzv-endpoint",
                "h:1",
                "--max_restarts=5",
                "--standalone",
                "train.py",
                "--nnodes",
                "9",
            ];
            let launch = launched(&[start, flags, &tail].concat());
            assert_eq!(launch.launcher, Launcher::Torchrun);
            assert_eq!((launch.nodes, launch.processes), (Some((2, 4)), Some(Processes::Number(8))));
            assert_eq!((launch.script.as_str(), launch.max_restarts), ("train.py", Some(5)));
            assert_eq!(launch.args, ["--nnodes", "9"]);
        }
    }
}

#[test]
fn every_word_of_a_command_has_a_verdict() {
    let texts =
        ["python", "-u", "-m", "torch.distributed.run", "--nnodes", "2", "-r", "3", "a.py", "--x", "1"];
    let mut told: Vec<String> = launched(&texts).parts.into_iter().map(|(word, _)| word.path).collect();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), texts.len());
}

#[test]
fn accelerate_and_python_are_read() {
    let launch = launched(&[
        "accelerate",
        "launch",
        "--config_file",
        "a.yaml",
        "--num_processes=16",
        "--mixed_precision=bf16",
        "t.py",
        "-x",
    ]);
    assert_eq!(launch.launcher, Launcher::Accelerate);
    assert_eq!((launch.accelerate_config.as_deref(), launch.processes_total), (Some("a.yaml"), Some(16)));
    assert_eq!(launch.env, [("ACCELERATE_MIXED_PRECISION".into(), "bf16".into())]);
    let launch = launched(&["python3.11", "-X", "dev", "t.py", "-m", "x"]);
    assert_eq!((launch.launcher, launch.script.as_str(), launch.args.len()), (Launcher::Python, "t.py", 2));
    let launch = launched(&["python", "-m", "accelerate.commands.launch", "t.py"]);
    assert_eq!(launch.launcher, Launcher::Accelerate);
}

#[test]
fn a_launcher_inside_a_shell_is_found_with_what_stands_around_it() {
    let text = "set -ex\npip install x && export A='1 2' B=3\ncd /work; C=4 exec torchrun \\\n  --nproc_per_node 2 t.py --lr 1 2>&1 | tee log; echo done";
    let launch = launched(&["/bin/bash", "-euo", "pipefail", "-c", text]);
    assert_eq!((launch.script.as_str(), launch.args.len()), ("t.py", 2));
    assert_eq!(
        (launch.directory.as_deref(), launch.before.as_slice()),
        (Some("/work"), &["pip install x".to_owned()][..])
    );
    let names: Vec<&str> = launch.env.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["A", "B", "C"]);
}

#[test]
fn what_cannot_be_carried_is_refused_by_name() {
    for (texts, named) in [
        (&["deepspeed", "t.py"][..], "`deepspeed`"),
        (&["mpirun", "-np", "2", "python", "t.py"], "`mpirun`"),
        (&["nsys", "profile", "torchrun", "t.py"], "`nsys`"),
        (&["torchrun", "--no-such=1", "t.py"], "`--no-such`"),
        (&["torchrun", "--nnodes=two", "t.py"], "`two`"),
        (&["torchrun", "-m", "pkg.train"], "`-m`"),
        (&["python", "-m", "pkg.train"], "`python -m pkg.train`"),
        (&["python", "-c", "1"], "`python -c`"),
        (&["torchrun"], "no script"),
        (&["accelerate", "launch", "--use_fsdp", "t.py"], "`--use_fsdp`"),
        (&["bash", "run.sh"], "`run.sh`"),
        (&["sh", "-c", "torchrun a.py; torchrun b.py"], "two commands"),
        (&["sh", "-c", "torchrun a.py &"], "background"),
        (&["sh", "-c", "for i in 1 2; do torchrun a.py; done"], "`for`"),
        (&["sh", "-c", "sleep 1"], "`sleep`"),
        (&[], "no `command`"),
    ] {
        let said = refused(texts);
        assert!(said.contains(named), "{texts:?}: {said}");
    }
}

#[test]
fn secrets_around_a_launcher_are_not_shown() {
    let text =
        "wandb login do-not-tell && hf auth --token do-not-tell; torchrun t.py; curl --api-key=do-not-tell x";
    let launch = launched(&["sh", "-c", text]);
    assert_eq!(launch.before, ["wandb …", "hf …"]);
    assert!(
        launch.parts.iter().skip(2).all(|(word, _)| !word.text.contains("do-not-tell")),
        "{:?}",
        launch.parts
    );
}

#[test]
fn flags_that_only_sound_like_secrets_are_none() {
    let told = |args: &[&str]| secret_argument(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
    assert_eq!(
        told(&["--tokenizer=x", "--max_tokens", "5", "--pad-token=<pad>", "--hf_token=$HF_TOKEN"]),
        None
    );
    assert_eq!(told(&["--x", "--hf_token", "abc"]).as_deref(), Some("--hf_token"));
}
