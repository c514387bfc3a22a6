//! Rules for documents in Markdown.

use std::path::{Component, Path, PathBuf};

use super::Finding;

const README_LINES_MAX: usize = 150;

pub(super) fn check(root: &Path, path: &str, text: &str) -> Vec<Finding> {
    let mut findings = titles(path, text);
    findings.extend(length(path, text));
    findings.extend(links(path, text, &|target| root.join(target).exists()));
    findings
}

fn length(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    let too_long = path.starts_with("README") && lines > README_LINES_MAX;
    too_long.then(|| Finding::error(path, format!("{lines} lines: at most {README_LINES_MAX}")))
}

fn titles(path: &str, text: &str) -> Vec<Finding> {
    let count = prose(text).filter(|(_, line)| line.starts_with("# ")).count();
    let finding = (count != 1).then(|| Finding::error(path, format!("{count} titles: expected one `# …`")));
    finding.into_iter().collect()
}

/// Links to files of the repository that are not there.
fn links(path: &str, text: &str, exists: &dyn Fn(&Path) -> bool) -> Vec<Finding> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    for (number, line) in prose(text) {
        for target in targets(line) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !normal(&folder.join(file)).is_some_and(|file| exists(&file)) {
                findings
                    .push(Finding::error(format!("{path}:{number}"), format!("`{target}` leads nowhere")));
            }
        }
    }
    findings
}

/// What stands in `](…)`, outside of `code`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let outside = line.split('`').step_by(2);
    outside.flat_map(|part| part.split("](").skip(1).filter_map(|rest| rest.split(')').next()))
}

/// Without `.` and `..`; nothing where it leaves the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut parts = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::ParentDir => {
                if !parts.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts)
}

/// Numbered lines that are not inside a block of code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        (!inside && !fence).then_some((index + 1, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_one_title_and_comments_in_code_are_none() {
        assert_eq!(titles("a.md", "# A\n## B\n```\n# comment\n```\n"), Vec::new());
        assert_eq!(titles("a.md", "# A\n# B\n").len(), 1);
        assert_eq!(titles("a.md", "text\n").len(), 1);
    }

    #[test]
    fn a_readme_stays_short_and_other_documents_need_not() {
        let text = "\n".repeat(151);
        assert!(length("README.ko.md", &text).is_some());
        assert_eq!(length("docs/a.md", &text), None);
    }

    #[test]
    fn a_link_must_lead_to_a_file_of_the_repository() {
        let exists = |path: &Path| path == Path::new("docs/b.md");
        let text =
            "[b](b.md#part) [b](../docs/b.md) [here](#part) [web](https://example.com/x) `[c](c.md)`\n";
        assert_eq!(links("docs/a.md", text, &exists), Vec::new());
        assert_eq!(links("docs/a.md", "[c](c.md)\n", &exists).len(), 1);
        assert_eq!(links("docs/a.md", "[c](../../docs/b.md)\n", &exists).len(), 1);
    }
}
