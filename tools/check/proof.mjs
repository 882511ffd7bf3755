// The proof tables: docs/proof/*.md name what is verified by ids, and tests carry those ids: `[D1]` in a title, `_d1` at the end of the
// name of a Rust test. `npm test` calls this with all titles of its run, and writes build/proof.md: each id with its tests.
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../run.mjs'

const ID = /^[A-FS]\d+(?:\.\d+)?$/

/** The cells of each row of a document's tables, without the rows that only separate. */
function rowsOf(document) {
  return document
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .split(/(?<!\\)\|/)
        .slice(1, -1)
        .map((cell) => cell.trim())
    )
    .filter((cells) => !cells.every((cell) => /^-+$/.test(cell)))
}

/** The ids that documents name: in the first cell of a row that states what is verified, in the last one of a suite's case. */
export function idsOf(documents) {
  const ids = new Map()
  for (const row of documents.flatMap(rowsOf)) {
    const [first] = row
    const named = ID.test(first)
      ? [first]
      : row
          .at(-1)
          .split(', ')
          .filter((text) => ID.test(text))
    for (const id of named) if (!ids.has(id)) ids.set(id, ID.test(first) ? row.slice(1).join('; ') : `case ${first}`)
  }
  return ids
}

/** The ids of a test: of a title in brackets, of a Rust name at its end. */
export function idsOfTest(title) {
  const ofRust = /^[\w:]+?((?:_[a-fs]\d+)+)$/.exec(title)
  if (ofRust !== null) return ofRust[1].slice(1).toUpperCase().split('_')
  return [...title.matchAll(/\[([A-FS]\d+(?:\.\d+)?)\]/g)].map(([, id]) => id)
}

/** What is wrong between the ids of documents and the tests of a run, and the tests of each id. */
export function compare(ids, titles) {
  const tests = new Map([...ids.keys()].map((id) => [id, []]))
  const problems = []
  for (const title of titles) {
    for (const id of idsOfTest(title)) {
      if (tests.has(id)) tests.get(id).push(title)
      else problems.push(`no document has the id ${id} of the test: ${title}`)
      // A part of a case shows the case.
      const whole = id.split('.')[0]
      if (whole !== id) tests.get(whole)?.push(title)
    }
  }
  for (const [id, named] of tests) if (named.length === 0) problems.push(`no test has the id ${id}: ${ids.get(id)}`)
  return { problems, tests }
}

/** The titles of a run: of TAP, and of `cargo test -- --list`. */
export function titlesOf(output) {
  const tap = [...output.matchAll(/^(?:not )?ok \d+ - (.*)$/gm)].map(([, title]) => title.replaceAll('\\#', '#'))
  const rust = [...output.matchAll(/^([\w:]+): test$/gm)].map(([, name]) => name)
  return [...new Set([...tap, ...rust])]
}

/** Compares docs/proof with the output of a whole run, and writes build/proof.md. Returns what is wrong. */
export function checkProof(output) {
  const folder = join(root, 'docs', 'proof')
  const documents = readdirSync(folder).map((name) => readFileSync(join(folder, name), 'utf8'))
  const ids = idsOf(documents)
  const { problems, tests } = compare(ids, titlesOf(output))
  const sections = [...tests].map(
    ([id, titles]) => `## ${id}\n\n${ids.get(id)}\n\n${titles.map((title) => `- ${title}`).join('\n')}\n`
  )
  mkdirSync(join(root, 'build'), { recursive: true })
  writeFileSync(join(root, 'build', 'proof.md'), `# Proof: the tests of each id\n\n${sections.join('\n')}`)
  return problems
}
