import { resolve } from 'node:path'
import test from 'ava'

interface Proof {
  idsOf(documents: readonly string[]): Map<string, string>
  idsOfTest(title: string): string[]
  compare(ids: Map<string, string>, titles: readonly string[]): { problems: string[]; tests: Map<string, string[]> }
  titlesOf(output: string): string[]
}

const { compare, idsOf, idsOfTest, titlesOf } = (await import(resolve('tools/check/proof.mjs'))) as Proof

const document = `
| id | source | what is verified | platform |
| -- | ------ | ---------------- | -------- |
| A1 | nix    | it arrives       | all      |
| –  | –      | not protected    | all      |

| case  | proof             |
| ----- | ----------------- |
| one   | A1                |
| two   | A1.1, A1.2        |
| three | Nothing to see.   |
`

test('a document names ids of what is verified, and of the cases of suites', (t) => {
  t.deepEqual(
    [...idsOf([document])],
    [
      ['A1', 'nix; it arrives; all'],
      ['A1.1', 'case two'],
      ['A1.2', 'case two']
    ]
  )
})

test('a title has its ids in brackets, the name of a Rust test at its end', (t) => {
  t.deepEqual(idsOfTest('it arrives (skipped: needs root) [A1] [S12] [A1.1]'), ['A1', 'S12', 'A1.1'])
  t.deepEqual(idsOfTest('an error [socket: can send] of [x1]'), [])
  t.deepEqual(idsOfTest('sys::cmsg::tests::it_arrives_a1_s12'), ['A1', 'S12'])
  t.deepEqual(idsOfTest('it_takes_ipv4_and_more'), [])
})

test('an id without a test, and a test whose id no document has, are reported', (t) => {
  const ids = idsOf([document])
  t.deepEqual(compare(ids, ['one [A1.1]', 'two [A1.2]']).problems, [])
  t.deepEqual(compare(ids, ['one [A1]', 'two [A1.2]']).problems, ['no test has the id A1.1: case two'])
  t.deepEqual(compare(ids, ['one [A1.1]', 'two [A1.2]', 'three [B1]']).problems, [
    'no document has the id B1 of the test: three [B1]'
  ])
})

test('titles are read from TAP and from the list of cargo test', (t) => {
  const output =
    'ok 1 - socket › it arrives \\#1 [A1]\nnot ok 2 - it fails [A2]\n  ---\nframe::it_waits_a1: test\n3 tests, 0 benchmarks'
  t.deepEqual(titlesOf(output), ['socket › it arrives #1 [A1]', 'it fails [A2]', 'frame::it_waits_a1'])
})
