import test from 'ava'
import { model } from '../helpers/strangers.ts'
import { exists, namedTests, rowsOf } from '../helpers/titles.ts'

test('each line of the threat model names a test that is there', (t) => {
  const lines = rowsOf(model)
  t.true(lines.length > 50, `${lines.length}`)
  for (const cells of lines) {
    const named = namedTests(cells.at(-1)!)
    t.true(named.length > 0 || cells.at(-1) === 'no test: it is not protected', cells[0])
    for (const one of named) t.true(exists(one), `${one.file}: ${one.title}`)
  }
})
