//! A shell's text as simple commands of words.
//!
//! Only what can be read for certain: words, quotes, `;`, `&&`, `||`, `|`, redirections. Anything whose
//! outcome depends on running it (substitutions, loops, heredocs) is named, and not guessed at.

/// What ends a simple command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `;`, a new line or the end: the next one follows whatever happened.
    Then,
    /// `&&`: the next one follows a success.
    And,
    /// `||`: the next one follows a failure.
    Or,
    /// `|`: the next one reads what this one prints.
    Pipe,
    /// `&`: the next one does not wait.
    Background,
}

/// One command with its words, assignments before it, and where its output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Simple {
    /// `A=b` before the first word.
    pub(super) assignments: Vec<(String, String)>,
    pub(super) words: Vec<String>,
    /// `2>&1`, `> FILE`.
    pub(super) redirections: Vec<String>,
    pub(super) end: End,
}

impl Simple {
    fn new() -> Self {
        Self { assignments: Vec::new(), words: Vec::new(), redirections: Vec::new(), end: End::Then }
    }

    fn is_empty(&self) -> bool {
        self.assignments.is_empty() && self.words.is_empty() && self.redirections.is_empty()
    }
}

/// Words that begin what only running it can tell.
const KEYWORDS: [&str; 16] = [
    "if", "then", "else", "fi", "for", "while", "until", "do", "done", "case", "function", "select", "[[",
    "{", "}", "!",
];

/// Reads `text`; the error names what cannot be read.
pub(super) fn parse(text: &str) -> Result<Vec<Simple>, String> {
    let mut parser = Parser { chars: text.chars().collect(), at: 0, done: Vec::new(), open: Simple::new() };
    parser.run()?;
    for command in &parser.done {
        if let Some(first) = command.words.first().filter(|word| KEYWORDS.contains(&word.as_str())) {
            return Err(format!("the shell's `{first}`"));
        }
    }
    Ok(parser.done)
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    done: Vec<Simple>,
    open: Simple,
}

impl Parser {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(c) = self.peek(0) {
            match (c, self.peek(1)) {
                ('\\', Some('\n')) => self.at += 2,
                (' ' | '\t' | '\r', _) => self.at += 1,
                (';', Some(';')) => return Err("the shell's `;;`".into()),
                (';' | '\n', _) => self.end(End::Then, 1),
                ('&', Some('&')) => self.end(End::And, 2),
                ('&' | '0'..='9' | '>', Some('>')) => self.redirection(2)?,
                ('&', _) => self.end(End::Background, 1),
                ('|', Some('|')) => self.end(End::Or, 2),
                ('|', Some('&')) => self.end(End::Pipe, 2),
                ('|', _) => self.end(End::Pipe, 1),
                ('<', Some('<')) => return Err("a heredoc `<<`".into()),
                ('<' | '>', Some('(')) => return Err("a process substitution".into()),
                ('(' | ')', _) => return Err(format!("the shell's `{c}`")),
                ('<' | '>', _) => self.redirection(1)?,
                ('#', _) => {
                    while self.peek(0).is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                _ => self.take_word()?,
            }
        }
        self.end(End::Then, 0);
        Ok(())
    }

    fn end(&mut self, end: End, chars: usize) {
        self.at += chars;
        if !self.open.is_empty() {
            self.open.end = end;
            self.done.push(std::mem::replace(&mut self.open, Simple::new()));
        }
    }

    fn redirection(&mut self, chars: usize) -> Result<(), String> {
        let mut shown: String = self.chars[self.at..self.at + chars].iter().collect();
        self.at += chars;
        if self.peek(0) == Some('&') {
            shown.push('&');
            self.at += 1;
        }
        while self.peek(0) == Some(' ') {
            self.at += 1;
        }
        let (target, _) = self.word()?;
        self.open.redirections.push(shown + &target);
        Ok(())
    }

    fn take_word(&mut self) -> Result<(), String> {
        let (word, quoted_from) = self.word()?;
        let name = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        match word.split_once('=') {
            Some((variable, value))
                if self.open.words.is_empty() && name(variable) && quoted_from > variable.len() =>
            {
                self.open.assignments.push((variable.to_owned(), value.to_owned()));
            }
            _ => self.open.words.push(word),
        }
        Ok(())
    }

    /// A word without its quotes, and how many of its characters came before the first quote.
    fn word(&mut self) -> Result<(String, usize), String> {
        let mut word = String::new();
        let mut quoted_from = usize::MAX;
        while let Some(c) = self.peek(0) {
            match c {
                '\'' | '"' => {
                    quoted_from = quoted_from.min(word.len());
                    self.at += 1;
                    self.quoted(c, &mut word)?;
                }
                '\\' => {
                    if let Some(next) = self.peek(1).filter(|next| *next != '\n') {
                        word.push(next);
                    }
                    self.at += 2;
                }
                '`' => return Err("a command substitution in backquotes".into()),
                '$' if self.peek(1) == Some('(') => return Err("a command substitution `$(…)`".into()),
                '$' if self.peek(1) == Some('{') => {
                    while let Some(c) = self.peek(0) {
                        word.push(c);
                        self.at += 1;
                        if c == '}' {
                            break;
                        }
                    }
                }
                ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')' => break,
                _ => {
                    word.push(c);
                    self.at += 1;
                }
            }
        }
        Ok((word, quoted_from))
    }

    fn quoted(&mut self, quote: char, word: &mut String) -> Result<(), String> {
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match (c, self.peek(0)) {
                _ if c == quote => return Ok(()),
                ('`', _) if quote == '"' => return Err("a command substitution in backquotes".into()),
                ('$', Some('(')) if quote == '"' => return Err("a command substitution `$(…)`".into()),
                ('\\', Some(next @ ('"' | '\\' | '$' | '`'))) if quote == '"' => {
                    word.push(next);
                    self.at += 1;
                }
                ('\\', Some('\n')) if quote == '"' => self.at += 1,
                _ => word.push(c),
            }
        }
        Err("a quote that does not end".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        parse(text).unwrap().into_iter().map(|command| command.words).collect()
    }

    #[test]
    fn quotes_escapes_and_continuations_are_read_as_a_shell_reads_them() {
        assert_eq!(
            words("a 'b  c' \"d \\\"e\\\"\" f\\ g \\\n  h # no\ni"),
            [vec!["a", "b  c", "d \"e\"", "f g", "h"], vec!["i"]]
        );
    }

    #[test]
    fn commands_end_where_a_shell_ends_them() {
        let read = parse("cd /x && A=1 B='2 3' run --c=d 2>&1 | tee log; last > out &").unwrap();
        let ends: Vec<End> = read.iter().map(|command| command.end).collect();
        assert_eq!(ends, [End::And, End::Pipe, End::Then, End::Background]);
        assert_eq!(read[1].assignments, [("A".into(), "1".into()), ("B".into(), "2 3".into())]);
        assert_eq!((read[1].words.len(), read[1].redirections.as_slice()), (2, &["2>&1".to_owned()][..]));
        assert_eq!(read[3].redirections, [">out"]);
    }

    #[test]
    fn what_only_running_tells_is_refused_by_name() {
        for (text, named) in [
            ("a $(hostname)", "$("),
            ("a \"`id`\"", "backquotes"),
            ("for i in 1; do a; done", "`for`"),
            ("cat <<E\nE", "heredoc"),
            ("(a)", "`(`"),
            ("a 'b", "quote"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(named), "{text}: {refused}");
        }
    }
}
