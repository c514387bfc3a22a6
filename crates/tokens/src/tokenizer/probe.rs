//! The text on which two engines must agree before the faster one is trusted with a tokenizer.

use eagleray_base::mix64;

use super::{Definition, Tokenizer};

/// Prose, code and numbers in the scripts that data comes in, and what breaks tokenizers.
pub const TEXT: &str = "\
The quick brown fox can't jump; they'll say it's \"fine\", won't they? I'D SAY SO, WE'VE SEEN'RE'm.\n\
  indented\tby tabs\t\tand   spaces   \n\n\n   trailing   \r\n\r\nwindows lines\r\n\
한국어 문장은 이렇게 씁니다. 토크나이저가 다르면 안 됩니다! ㄱㄴㄷ ㅏㅑ 각\u{1100}\u{1161}\u{11a8}\n\
日本語の文章、カタカナとひらがな。中文的句子没有空格,但有标点符号。繁體字亦然。𠀀𠮷\n\
Съешь же ещё этих мягких французских булок. Ελληνικά: Ξεσκεπάζω. עברית מימין לשמאל. العربيةُ تُكتَبُ هكذا.\n\
हिन्दी में क्षत्रिय, ไทยไม่มีช่องว่าง, বাংলা, தமிழ், မြန်မာ, ქართული, Հայերեն, አማርኛ, ខ្មែរ\n\
naïve café cafe\u{301} A\u{30a} Å Å ﬁ ① ² ½ Ⅷ ǅ ß ſ İ ı K\n\
fn main() -> Result<(), Box<dyn Error>> { let x = a[i+1]*0xFF_u32 >> 3; /* ok? */ }\n\
def f(self, *args: int = 1_000) -> None:\n        return {\"key\": [1, 2.5e-10, None]}  # комментарий\n\
SELECT * FROM t WHERE a<>b AND c LIKE '%x%'; <a href=\"https://e.x/?q=1&r=%20\">link</a> ---- ==== ....\n\
1234567890 12 345 6789 3.14159 1,000,000 ١٢٣ १२३ 1st 2nd ½kg a1b2c3 __init__ camelCaseWORDS snake_case\n\
😀👍🏽👨‍👩‍👧‍👦🇰🇷🏳️‍🌈 ❤️ \u{200b}zero\u{200c}width\u{200d}\u{feff} \u{a0}nbsp\u{3000}wide \u{2028}\u{2029}\u{85}\n\
\u{0}\u{1}\u{7f}\u{80}\u{ad}\u{e000}\u{fffd}\u{fffe}\u{ffff}\u{1f600}\u{10ffff}\u{10fffd} aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
                                                                  !!!!!!!!!!!!!!!!????????\n\n\n\n\n\n";

/// Odd strings made of the text's own characters, and of the tokenizer's added tokens.
const SHUFFLED: u64 = 300;
/// Added tokens that are tried within text.
const ADDED_TOKENS: usize = 64;

/// Every text of the probe for a tokenizer.
pub fn texts(definition: &Definition) -> Vec<String> {
    let mut texts: Vec<String> = TEXT.lines().map(str::to_owned).collect();
    texts.extend([String::new(), " ".to_owned(), "\n".to_owned(), TEXT.to_owned(), TEXT.repeat(12)]);
    let characters: Vec<char> = TEXT.chars().collect();
    for seed in 0..SHUFFLED {
        let pick = |i: u64| characters[(mix64((seed << 32) | (i + 1)) % characters.len() as u64) as usize];
        texts.push((0..8 + seed % 40).map(pick).collect());
    }
    for token in definition.added_tokens().take(ADDED_TOKENS) {
        texts.push(format!("a{token}b {token} {token}{token}\n{token}'s 한{token}"));
    }
    texts
}

/// The first text of the probe on which the two give different ids.
pub fn difference(one: &dyn Tokenizer, other: &dyn Tokenizer, definition: &Definition) -> Option<String> {
    texts(definition).into_iter().find(|text| {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        one.encode(text, &mut left).is_err() || other.encode(text, &mut right).is_err() || left != right
    })
}
