//! The committed corpora: `corpus/TARGET.hex` has one seed a line, in hexadecimal digits.

/// Returns the seeds of a corpus, each with its line. `npm run fuzz -- TARGET --add FILE` adds one.
pub fn seeds(corpus: &str) -> impl Iterator<Item = (&str, Vec<u8>)> {
  corpus.lines().map(|line| {
    let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).expect("a corpus has two digits for each byte");
    (line, (0..line.len()).step_by(2).map(byte).collect())
  })
}
