//! The command of a container: which script it starts, with what, and on how many processes.

mod flags;

use super::account::Verdict;
use super::variables;
use super::words::{self, End, Simple};
use flags::{ACCELERATE, Flag, LOGS, MODULE, TORCHRUN};

/// A word, and the field of the manifest that it comes from.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) path: String,
}

/// How many processes a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Processes {
    Number(u32),
    /// One for each GPU.
    Gpus,
}

/// What starts the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Launcher {
    /// `torchrun` and its older forms.
    Torchrun,
    Accelerate,
    /// Python alone: one process a pod.
    Python,
}

/// A command, understood.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) launcher: Launcher,
    pub(super) script: String,
    pub(super) args: Vec<String>,
    /// `--nnodes`, least and most.
    pub(super) nodes: Option<(u32, u32)>,
    pub(super) processes: Option<Processes>,
    /// Accelerate's `--num_processes`: of all nodes together.
    pub(super) processes_total: Option<u32>,
    pub(super) max_restarts: Option<u32>,
    pub(super) accelerate_config: Option<String>,
    /// Variables set in front of it.
    pub(super) env: Vec<(String, String)>,
    /// `cd DIR` before it.
    pub(super) directory: Option<String>,
    /// What a shell did before it, for the image.
    pub(super) before: Vec<String>,
    /// What became of each word.
    pub(super) parts: Vec<(Word, Verdict)>,
}

/// What cannot be read, and what to do about it.
pub(super) type Refusal = (String, String);

fn refuse<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, Refusal> {
    Err((message.into(), hint.into()))
}

/// Reads the words of `command` and `args` together.
pub(super) fn read(words: &[Word]) -> Result<Launch, Refusal> {
    let Some(first) = words.first() else {
        return refuse(
            "the container has no `command` and no `args`: what it starts is written in its image",
            "write the command into the manifest: `docker inspect IMAGE` shows the entrypoint",
        );
    };
    // A flag is for the image's entrypoint: arguments alone do not replace that.
    if first.text.starts_with('-') {
        return refuse(
            format!(
                "the container has no `command`, and `{}` is no launcher: what it starts is written in its image",
                first.text
            ),
            "write the command into the manifest, before its arguments: `docker inspect IMAGE` shows the entrypoint",
        );
    }
    if ["bash", "sh", "dash", "ash", "zsh"].contains(&base_name(&first.text)) {
        return read_shell(words);
    }
    match launcher(words)? {
        Some(launch) => Ok(launch),
        None => unknown(&first.text),
    }
}

fn unknown<T>(program: &str) -> Result<T, Refusal> {
    refuse(
        format!("`{program}` is no launcher that can be read"),
        "known are `torchrun`, `python -m torch.distributed.run`, `accelerate launch` and `python`, alone or inside `bash -c`",
    )
}

fn base_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

fn read_shell(words: &[Word]) -> Result<Launch, Refusal> {
    let mut rest = words[1..].iter();
    let mut parts =
        vec![(words[0].clone(), Verdict::replaced("no shell stands between: the driver starts the script"))];
    let text = loop {
        let Some(word) = rest.next() else {
            return refuse(
                "a shell without `-c TEXT`",
                "write the launcher into the manifest: `command: [torchrun, …]`",
            );
        };
        if !word.text.starts_with(['-', '+']) {
            return refuse(
                format!("the launcher is inside `{}`, a file of the image", word.text),
                "write the line that starts the training into the manifest: `command: [torchrun, …]`",
            );
        }
        parts
            .push((word.clone(), Verdict::replaced("no shell stands between: the driver starts the script")));
        if word.text.starts_with('-') && !word.text.starts_with("--") && word.text.contains('c') {
            break rest.next();
        }
        if word.text.ends_with('o') && !word.text.starts_with("--") {
            parts.extend(
                rest.next().map(|option| (option.clone(), Verdict::replaced("no shell stands between"))),
            );
        }
    };
    let Some(text) = text else {
        return refuse("a shell's `-c` without a text", "write the launcher into the manifest");
    };
    let commands = words::parse(&text.text).map_err(|what| {
        let hint = "write the line that starts the training as it comes out, without it: what is guessed could train something else";
        (format!("{what} in the shell's text cannot be read without running it"), hint.to_owned())
    })?;
    let mut launch = find_launch(&commands, &text.path)?;
    parts.append(&mut launch.parts);
    for extra in rest {
        parts.push((
            extra.clone(),
            Verdict::lost("a shell's own argument: write it into the text where `$0`, `$1` … stand"),
        ));
    }
    launch.parts = parts;
    Ok(launch)
}

/// What a shell does around the launcher.
struct Around<'a> {
    /// The field that holds the shell's text.
    path: &'a str,
    directory: Option<String>,
    env: Vec<(String, String)>,
    before: Vec<String>,
    parts: Vec<(Word, Verdict)>,
}

/// The one command that trains, and what became of those around it.
fn find_launch(commands: &[Simple], path: &str) -> Result<Launch, Refusal> {
    let mut around = Around { path, directory: None, env: Vec::new(), before: Vec::new(), parts: Vec::new() };
    let mut found: Option<Launch> = None;
    let mut piped = false;
    for command in commands {
        let stripped = strip_wrappers(command);
        let words: Vec<Word> = stripped.words.iter().map(|text| around.word(text)).collect();
        let launch = if piped || words.is_empty() { None } else { launcher(&words)? };
        piped = command.end == End::Pipe;
        let Some(mut launch) = launch else {
            around.take(command, &stripped, found.is_some());
            continue;
        };
        if found.is_some() {
            return refuse("two commands of one shell train", "make a job of each: a run has one script");
        }
        if command.end == End::Background {
            return refuse("the launcher runs in the background", "remove the `&` after it");
        }
        around.env.extend(stripped.assignments);
        around.parts.append(&mut launch.parts);
        for redirection in &command.redirections {
            around.tell(redirection, Verdict::replaced(LOGS));
        }
        found = Some(launch);
    }
    let Some(mut launch) = found else {
        let tried = commands.iter().filter_map(|command| command.words.first()).map(String::as_str);
        return unknown(&tried.collect::<Vec<_>>().join("`, `"));
    };
    launch.directory = around.directory;
    launch.before = around.before;
    launch.env.splice(0..0, around.env);
    launch.parts = around.parts;
    Ok(launch)
}

impl Around<'_> {
    fn word(&self, text: &str) -> Word {
        Word { text: text.to_owned(), path: self.path.to_owned() }
    }

    fn tell(&mut self, text: &str, verdict: Verdict) {
        self.parts.push((self.word(text), verdict));
    }

    /// A command that does not train.
    fn take(&mut self, command: &Simple, stripped: &Simple, after: bool) {
        let shown = shown(command);
        match stripped.words.first().map(String::as_str) {
            Some("tee") if after => self.tell(&shown, Verdict::replaced(LOGS)),
            _ if after => {
                let what = "nothing runs after the script: do it at its end, or by a job of its own";
                self.tell(&shown, Verdict::lost(what));
            }
            Some("cd") if stripped.words.len() == 2 => {
                self.directory = Some(stripped.words[1].clone());
                let verdict = Verdict::carried("train.script.path").because("relative paths begin there");
                self.tell(&shown, verdict);
            }
            Some("set") => self.tell(&shown, Verdict::replaced("no shell stands between")),
            Some("export") => self.export(&stripped.words[1..]),
            None => self.env.extend(stripped.assignments.iter().cloned()),
            Some(_) => {
                let what = "put it into the image: it stands as a comment in the Dockerfile";
                self.tell(&shown, Verdict::lost(what));
                self.before.push(shown);
            }
        }
    }

    fn export(&mut self, words: &[String]) {
        for text in words {
            if let Some((name, value)) = text.split_once('=') {
                self.env.push((name.to_owned(), value.to_owned()));
            } else {
                let verdict = Verdict::replaced("the whole environment reaches the script");
                self.tell(&format!("export {text}"), verdict);
            }
        }
    }
}

/// A command as the report shows it: what may hold a secret is shown by its name alone.
fn shown(command: &Simple) -> String {
    let login = command.words.iter().any(|word| word == "login");
    match command.words.first() {
        Some(first) if login || secret_argument(&command.words).is_some() => format!("{first} …"),
        _ => command.words.join(" "),
    }
}

/// An argument that holds a secret: the flag's name.
pub(super) fn secret_argument(args: &[String]) -> Option<String> {
    const FLAGS: [&str; 9] = [
        "hf-token",
        "auth-token",
        "access-token",
        "api-token",
        "github-token",
        "api-key",
        "access-key",
        "password",
        "secret",
    ];
    const BEGINNINGS: [&str; 4] = ["hf_", "ghp_", "AKIA", "sk-"];
    args.iter().enumerate().find_map(|(index, argument)| {
        let next = args.get(index + 1).map_or("", String::as_str);
        let (flag, value) = argument.split_once('=').unwrap_or((argument, next));
        let name = flag.trim_start_matches('-').to_lowercase().replace('_', "-");
        let named =
            flag.starts_with('-') && (name == "token" || FLAGS.iter().any(|word| name.ends_with(word)));
        let looks = |text: &str| text.len() >= 20 && BEGINNINGS.iter().any(|start| text.starts_with(start));
        let plain = !value.is_empty() && variables::left_in(value).is_none() && !value.starts_with("--");
        let found = (named && plain) || (argument.contains('=') && looks(value)) || looks(argument);
        found.then(|| if flag.starts_with('-') { flag.to_owned() } else { format!("argument {}", index + 1) })
    })
}

/// `exec`, `nohup`, `time` and `env A=b` change nothing that matters here.
fn strip_wrappers(command: &Simple) -> Simple {
    let mut stripped = command.clone();
    while let Some(first) = stripped.words.first().cloned() {
        match base_name(&first) {
            "exec" | "nohup" | "time" => {
                stripped.words.remove(0);
            }
            "env" => {
                stripped.words.remove(0);
                while let Some((name, value)) = stripped.words.first().and_then(|word| word.split_once('=')) {
                    stripped.assignments.push((name.to_owned(), value.to_owned()));
                    stripped.words.remove(0);
                }
            }
            _ => break,
        }
    }
    stripped
}

fn unused() -> Launch {
    Launch {
        launcher: Launcher::Python,
        script: String::new(),
        args: Vec::new(),
        nodes: None,
        processes: None,
        processes_total: None,
        max_restarts: None,
        accelerate_config: None,
        env: Vec::new(),
        directory: None,
        before: Vec::new(),
        parts: Vec::new(),
    }
}

/// A launch, where the first words are a launcher's; `None` where they are another program's.
fn launcher(words: &[Word]) -> Result<Option<Launch>, Refusal> {
    let first = base_name(&words[0].text);
    let started = |count: usize| {
        let verdict = Verdict::replaced("Ray Train starts the workers");
        words[..count].iter().map(|word| (word.clone(), verdict.clone())).collect::<Vec<_>>()
    };
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    if first == "torchrun" {
        return flags(Launcher::Torchrun, &words[1..], &TORCHRUN, started(1)).map(Some);
    }
    if first == "accelerate" && texts.get(1) == Some(&"launch") {
        return flags(Launcher::Accelerate, &words[2..], &ACCELERATE, started(2)).map(Some);
    }
    if first.starts_with("python") {
        return python(words, &texts);
    }
    if ["deepspeed", "mpirun", "mpiexec", "horovodrun", "srun", "ray"].contains(&first) {
        return refuse(
            format!("`{first}` is a launcher that this build does not migrate"),
            "start the script by `torchrun` or `accelerate launch` first; `train.strategy: zero3` is DeepSpeed without its launcher",
        );
    }
    let inner = |text: &&&str| ["torchrun", "accelerate"].contains(&base_name(text));
    if let Some(inner) = texts[1..].iter().find(inner) {
        return refuse(
            format!("`{first}` stands before `{inner}`: what it does to the processes cannot be carried"),
            format!("remove `{first} …` from the command"),
        );
    }
    Ok(None)
}

fn python(words: &[Word], texts: &[&str]) -> Result<Option<Launch>, Refusal> {
    let mut at = 1;
    let mut parts = vec![(words[0].clone(), Verdict::replaced("Ray Train starts the workers"))];
    let interpreter =
        Verdict::replaced("the workers' Python is started by Ray: set `PYTHON…` variables where it matters");
    while let Some(text) = texts.get(at).filter(|text| text.starts_with('-')) {
        if matches!(*text, "-m" | "-c") {
            break;
        }
        let taken = if matches!(*text, "-W" | "-X") { 2 } else { 1 };
        parts.extend(words[at..].iter().take(taken).map(|word| (word.clone(), interpreter.clone())));
        at += taken;
    }
    let module = texts.get(at) == Some(&"-m");
    let name = texts.get(at + usize::from(module)).copied();
    let rest = |from: usize| words.get(from..).unwrap_or_default();
    let mut launched = |count: usize| {
        parts.extend(
            words[at..at + count]
                .iter()
                .map(|word| (word.clone(), Verdict::replaced("Ray Train starts the workers"))),
        );
        std::mem::take(&mut parts)
    };
    let launch = match (module, name) {
        (true, Some("torch.distributed.run" | "torch.distributed.launch")) => {
            flags(Launcher::Torchrun, rest(at + 2), &TORCHRUN, launched(2))?
        }
        (true, Some("accelerate.commands.launch")) => {
            flags(Launcher::Accelerate, rest(at + 2), &ACCELERATE, launched(2))?
        }
        (true, Some("accelerate.commands.accelerate_cli" | "accelerate"))
            if texts.get(at + 2) == Some(&"launch") =>
        {
            flags(Launcher::Accelerate, rest(at + 3), &ACCELERATE, launched(3))?
        }
        (true, Some(module)) if module.starts_with("pip") => return Ok(None),
        (true, Some(module)) => return refuse(format!("`python -m {module}` starts a module"), MODULE),
        (false, Some("-c")) => {
            return refuse("`python -c` starts code without a file", "write it into a file of the image");
        }
        (false, Some(name)) if base_name(name) == "torchrun" => {
            flags(Launcher::Torchrun, rest(at + 1), &TORCHRUN, launched(1))?
        }
        (false, Some(_)) => flags(Launcher::Python, rest(at), &[], launched(0))?,
        (_, None) => return refuse("`python` without a script", "name the script in the command"),
    };
    Ok(Some(launch))
}

/// Flags of a launcher until the first word that is none: the script; the rest is the script's.
fn flags(
    launcher: Launcher,
    words: &[Word],
    known: &[(&str, Flag)],
    parts: Vec<(Word, Verdict)>,
) -> Result<Launch, Refusal> {
    let mut launch = Launch { launcher, parts, ..unused() };
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if !word.text.starts_with('-') {
            launch.script.clone_from(&word.text);
            launch.parts.push((word.clone(), Verdict::carried("train.script.path")));
            for (index, argument) in rest.enumerate() {
                launch.args.push(argument.text.clone());
                launch
                    .parts
                    .push((argument.clone(), Verdict::carried(format!("train.script.args[{index}]"))));
            }
            return Ok(launch);
        }
        let (written, value) =
            word.text.split_once('=').map_or((word.text.as_str(), None), |(f, v)| (f, Some(v)));
        let name = written.replace('_', "-");
        let Some((_, flag)) = known.iter().find(|(flag, _)| *flag == name) else {
            let hint = "it is read neither as the launcher's nor guessed at: remove it, or report it as missing here";
            return refuse(format!("the launcher's flag `{written}` is not known"), hint);
        };
        let wants_value = !matches!(flag, Flag::Switch(_) | Flag::VariableSwitch(_) | Flag::Refused(_));
        let following = if wants_value && value.is_none() { rest.next() } else { None };
        let value = value.or_else(|| following.map(|word| word.text.as_str()));
        if wants_value && value.is_none() {
            return refuse(format!("the launcher's flag `{written}` has no value"), "give it one");
        }
        let verdict = launch.take(*flag, written, value.unwrap_or_default())?;
        launch.parts.push((word.clone(), verdict.clone()));
        launch.parts.extend(following.map(|word| (word.clone(), verdict)));
    }
    refuse("the launcher starts no script", "name the script after the launcher's flags")
}

impl Launch {
    fn take(&mut self, flag: Flag, written: &str, value: &str) -> Result<Verdict, Refusal> {
        let number = |text: &str| {
            text.parse::<u32>().map_err(|_| {
                (
                    format!("`{written}` is no number: `{text}`"),
                    "write the number, or give the variable by `--var`".to_owned(),
                )
            })
        };
        let counts = matches!(flag, Flag::Nodes | Flag::Processes | Flag::ProcessesTotal | Flag::MaxRestarts);
        if counts && variables::left_in(value).is_some() {
            // Kubeflow's operator fills it in from what the job says elsewhere, which is read there.
            return Ok(Verdict::replaced("the job's own number stands in `cluster`"));
        }
        Ok(match flag {
            Flag::Nodes => {
                let (least, most) = value.split_once(':').unwrap_or((value, value));
                self.nodes = Some((number(least)?, number(most)?));
                Verdict::carried("cluster.eks.groups[0].nodes")
            }
            Flag::Processes => {
                self.processes =
                    Some(processes(value).map_or_else(|| number(value).map(Processes::Number), Ok)?);
                Verdict::carried("cluster.workers").because("nodes × processes per node")
            }
            Flag::ProcessesTotal => {
                self.processes_total = Some(number(value)?);
                Verdict::carried("cluster.workers")
            }
            Flag::MaxRestarts => {
                self.max_restarts = Some(number(value)?);
                Verdict::carried("train.max_failures")
            }
            Flag::AccelerateConfig => {
                self.accelerate_config = Some(value.to_owned());
                Verdict::carried("train.script.accelerate_config")
            }
            Flag::Variable(name) => {
                self.env.push((name.to_owned(), value.to_owned()));
                Verdict::carried(format!("cluster.eks.env.{name}"))
            }
            Flag::VariableSwitch(name) => {
                self.env.push((name.to_owned(), "true".to_owned()));
                Verdict::carried(format!("cluster.eks.env.{name}"))
            }
            Flag::Replaced(why) | Flag::Switch(why) => Verdict::replaced(why),
            Flag::Refused(hint) => {
                return refuse(format!("the launcher's `{written}` cannot be carried"), hint);
            }
        })
    }
}

/// `auto` and `gpu` stand for the GPUs of a node, `cpu` for nothing that a manifest says.
pub(super) fn processes(text: &str) -> Option<Processes> {
    match text {
        "auto" | "gpu" => Some(Processes::Gpus),
        _ => text.parse().ok().map(Processes::Number),
    }
}

#[cfg(test)]
mod tests;
