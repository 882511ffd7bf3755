import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'

test("README's example prints what README says", (t) => {
  const readme = readFileSync('README.md', 'utf8')
  const programs = [...readme.matchAll(/```js\n(\/\/ (\S+\.mjs)\n[^]*?)```/g)]
  const printed = /```text\n([^]*?)```/.exec(readme)![1]!
  const folder = join('build', 'readme') // inside the package, so that `fdpass` is found by its own name
  mkdirSync(folder, { recursive: true })
  for (const [, text, name] of programs) writeFileSync(join(folder, name!), text!)
  writeFileSync(join(folder, 'greeting.txt'), 'hello\n')
  t.deepEqual(
    programs.map(([, , name]) => name),
    ['parent.mjs', 'child.mjs']
  )
  const { stdout, stderr, status } = spawnSync(process.execPath, ['parent.mjs'], { cwd: folder, encoding: 'utf8' })
  t.deepEqual({ stdout, stderr, status }, { stdout: printed, stderr: '', status: 0 })
})
