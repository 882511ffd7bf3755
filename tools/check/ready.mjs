// Runs what CI requires of each commit, and stops at the first failure.
import { spawnSync } from 'node:child_process'

for (const script of ['setup', 'lint', 'test']) {
  console.error(`# npm run ${script}`)
  const { status } = spawnSync('npm', ['run', '--silent', script], { stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}
