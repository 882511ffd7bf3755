import { readFileSync } from 'node:fs'
import test from 'ava'
import { exists, namedTests, rowsOf } from '../helpers/titles.ts'

const table = readFileSync('docs/conformance.md', 'utf8')
const [cases, suites] = table.split('\n## The suites, case by case\n').map(rowsOf) as [string[][], string[][]]

/** How many cases each part of the list has. */
const counts = { A: 15, B: 15, C: 11, D: 12, E: 14, F: 5 }
const ids = Object.entries(counts).flatMap(([part, count]) =>
  Array.from({ length: count }, (_, i) => `${part}${i + 1}`)
)

test('the table of conformance has each case once, with a test for each', (t) => {
  t.deepEqual(
    cases.map(([id]) => id),
    ids
  )
  for (const [id, , , tests, platform] of cases) {
    t.not(namedTests(tests!).length, 0, id)
    t.true(platform === 'all' || platform === 'Linux', id)
  }
})

test('the tests that the table of conformance names are there', (t) => {
  const named = namedTests(table)
  t.true(named.length > 150, `${named.length}`)
  t.deepEqual(
    named.filter((one) => !exists(one)).map(({ file, title }) => `${file}: ${title}`),
    []
  )
})

test('each case of a suite has the test of its id, one of its own, or the reason why there is none', (t) => {
  t.true(suites.length > 100, `${suites.length}`)
  for (const [name, id, what] of suites) {
    if (what === 'as the id') for (const one of id!.split(', ')) t.true(ids.includes(one), `${name}: ${id}`)
    else t.true(namedTests(what!).length > 0 || /^[A-Z].*\.$/.test(what!), `${name}: ${what}`)
  }
})

test('a test that is not there is noticed', (t) => {
  t.true(exists({ file: 'proof/conformance-table.spec.ts', title: 'a test that is not there is noticed' }))
  t.false(exists({ file: 'proof/conformance-table.spec.ts', title: 'a test that is not there' }))
  t.false(exists({ file: 'no-such.spec.ts', title: 'a test that is not there is noticed' }))
  t.true(
    exists({
      file: 'socket/transfer-to-processes.spec.ts',
      title: 'descriptors go to another process and come back over a … pair [A8]'
    })
  )
  t.false(
    exists({
      file: 'socket/transfer-to-processes.spec.ts',
      title: 'descriptors go to another process and come back over a … pair'
    })
  )
  t.true(exists({ file: 'rights.rs', title: 'the_offset_is_shared_with_the_sender' }))
  t.false(exists({ file: 'rights.rs', title: 'make_room_for_descriptors' }), 'a function, and no test')
})
