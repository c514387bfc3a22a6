//! Patterns over paths: `*` and `?` within a folder, `**` across folders, `{a,b}` either.
//!
//! A pattern is followed name by name, so that a listing enters only folders in which something can match.

/// A pattern, its braces expanded and each alternative split at slashes.
pub(crate) struct Pattern {
    alternatives: Vec<Vec<String>>,
}

/// How far a path has come in a pattern: alternatives, and how many of their segments are behind it.
pub(crate) type Place = Vec<(usize, usize)>;

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        let split = |text: String| text.split('/').map(str::to_owned).collect();
        Self { alternatives: expand(text).into_iter().map(split).collect() }
    }

    /// What matches everything below a folder.
    pub(crate) fn all() -> Self {
        Self::new("**")
    }

    /// The place in front of any path.
    pub(crate) fn start(&self) -> Place {
        self.settle((0..self.alternatives.len()).map(|number| (number, 0)))
    }

    /// The place after one more name; empty where nothing can match any more.
    pub(crate) fn enter(&self, place: &Place, name: &str) -> Place {
        let next = place.iter().filter_map(|&(number, behind)| {
            let segment = self.alternatives[number].get(behind)?;
            match segment.as_str() {
                "**" => Some((number, behind)),
                _ if segment_matches(segment.as_bytes(), name.as_bytes()) => Some((number, behind + 1)),
                _ => None,
            }
        });
        self.settle(next)
    }

    /// Whether the path up to here is a match.
    pub(crate) fn is_match(&self, place: &Place) -> bool {
        place.iter().any(|&(number, behind)| behind == self.alternatives[number].len())
    }

    /// Whether something below the folder at this place can match.
    pub(crate) fn goes_on(&self, place: &Place) -> bool {
        place.iter().any(|&(number, behind)| behind < self.alternatives[number].len())
    }

    /// Whether something can match at any depth below.
    pub(crate) fn goes_deep(&self, place: &Place) -> bool {
        place.iter().any(|&(number, behind)| self.alternatives[number].get(behind).is_some_and(|s| s == "**"))
    }

    /// Adds the places that `**` reaches by matching no folder at all.
    fn settle(&self, places: impl Iterator<Item = (usize, usize)>) -> Place {
        let mut settled = Place::new();
        for (number, mut behind) in places {
            settled.push((number, behind));
            while self.alternatives[number].get(behind).is_some_and(|segment| segment == "**") {
                behind += 1;
                settled.push((number, behind));
            }
        }
        settled.sort_unstable();
        settled.dedup();
        settled
    }
}

/// Whether a path matches a pattern: `*` and `?` within a folder, `**` across folders, `{a,b}` either.
pub fn glob_matches(pattern: &str, path: &str) -> bool {
    let pattern = Pattern::new(pattern);
    let place = path.split('/').fold(pattern.start(), |place, name| pattern.enter(&place, name));
    pattern.is_match(&place)
}

fn expand(pattern: &str) -> Vec<String> {
    let braces = pattern.find('{').and_then(|open| Some((open, open + pattern[open..].find('}')?)));
    let Some((open, close)) = braces else { return vec![pattern.to_owned()] };
    let choices = pattern[open + 1..close].split(',');
    choices.flat_map(|c| expand(&format!("{}{c}{}", &pattern[..open], &pattern[close + 1..]))).collect()
}

fn segment_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    // The last `*`, and how much of the name it may leave to what follows it.
    let mut star = None;
    while read < name.len() {
        match (pattern.get(at), star) {
            (Some(b'*'), _) => {
                star = Some((at, read));
                at += 1;
            }
            (Some(&byte), _) if byte == b'?' || byte == name[read] => (at, read) = (at + 1, read + 1),
            (_, Some((begin, taken))) => {
                star = Some((begin, taken + 1));
                (at, read) = (begin + 1, taken + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The meaning of a pattern, written down as plainly as can be.
    fn means(pattern: &[&str], path: &[&str]) -> bool {
        fn segment(pattern: &[u8], name: &[u8]) -> bool {
            match (pattern, name) {
                ([], []) => true,
                ([b'*', rest @ ..], _) => {
                    segment(rest, name) || matches!(name, [_, n @ ..] if segment(pattern, n))
                }
                ([b'?', rest @ ..], [_, names @ ..]) => segment(rest, names),
                ([byte, rest @ ..], [first, names @ ..]) => byte == first && segment(rest, names),
                _ => false,
            }
        }
        match (pattern, path) {
            ([], []) => true,
            (["**", rest @ ..], _) => means(rest, path) || matches!(path, [_, p @ ..] if means(pattern, p)),
            ([first, rest @ ..], [name, names @ ..]) => {
                segment(first.as_bytes(), name.as_bytes()) && means(rest, names)
            }
            _ => false,
        }
    }

    fn words(letters: &str, longest: u32) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut last = words.clone();
        for _ in 0..longest {
            last = last.iter().flat_map(|word| letters.chars().map(move |l| format!("{word}{l}"))).collect();
            words.extend(last.iter().cloned());
        }
        words
    }

    #[test]
    fn short_patterns_match_exactly_the_paths_that_they_mean() {
        let paths = words("ab/", 5);
        let mut matches = 0;
        for pattern in words("a?*/", 5) {
            let parts: Vec<&str> = pattern.split('/').collect();
            for path in &paths {
                let expected = means(&parts, &path.split('/').collect::<Vec<_>>());
                assert_eq!(glob_matches(&pattern, path), expected, "`{pattern}` `{path}`");
                matches += usize::from(expected);
            }
        }
        assert!(matches > 10_000);
    }

    #[test]
    fn a_folder_is_entered_only_where_something_in_it_can_match() {
        let pattern = Pattern::new("{a,b*}/x/*.txt");
        let below = |names: &[&str]| {
            let place = names.iter().fold(pattern.start(), |place, name| pattern.enter(&place, name));
            (pattern.goes_on(&place), pattern.is_match(&place))
        };
        assert_eq!(below(&["b1"]), (true, false));
        assert_eq!(below(&["c"]), (false, false));
        assert_eq!(below(&["a", "y"]), (false, false));
        assert_eq!(below(&["a", "x", "1.txt"]), (false, true));
        let deep = Pattern::new("a/**/b");
        assert!(!deep.goes_deep(&deep.start()));
        assert!(deep.goes_deep(&deep.enter(&deep.start(), "a")));
    }
}
