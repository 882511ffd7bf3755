import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { begin, commandsBelow, commandsIn, fdpass, helpOf, installed, sandbox } from '../helpers/cli.ts'
import { onlyIf } from '../helpers/conditions.ts'
import { runs } from '../helpers/processes.ts'

const scripts = sandbox()

/** The file of what `fdpass completion SHELL` prints, which is run once for each shell. */
function scriptFor(shell: string): string {
  const path = join(scripts, shell)
  if (!existsSync(path)) {
    writeFileSync(path, spawnSync('fdpass', ['completion', shell], { env: installed, encoding: 'utf8' }).stdout)
  }
  return path
}

type Complete = (t: ExecutionContext, ...words: string[]) => Promise<string[]>

/** What a real shell offers for a command line, whose last word is being written. */
const shells: Readonly<Record<string, Complete>> = {
  async bash(t, ...words) {
    const cwd = sandbox()
    // As readline calls it: bash(1), "Programmable Completion".
    const text = `
      source ${scriptFor('bash')}
      [[ $(complete -p fdpass) == 'complete -o bashdefault -o default -F _fdpass fdpass' ]]
      COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
      _fdpass fdpass "\${COMP_WORDS[COMP_CWORD]}" "\${COMP_WORDS[COMP_CWORD-1]}" || true
      printf '%s\\n' "\${COMPREPLY[@]}"`
    writeFileSync(join(cwd, 'text'), text)
    const { stdout, stderr, status } = spawnSync('bash', ['-eu', 'text', ...words], {
      cwd,
      env: installed,
      encoding: 'utf8'
    })
    t.deepEqual({ stderr, status }, { stderr: '', status: 0 })
    return stdout.split('\n').filter((line) => line !== '')
  },

  async zsh(_t, ...words) {
    const cwd = sandbox()
    mkdirSync(join(cwd, 'functions'))
    copyFileSync(scriptFor('zsh'), join(cwd, 'functions', '_fdpass'))
    // An interactive zsh on a terminal of its own, which lists what it would offer at Tab, twice, between two marks.
    writeFileSync(
      join(cwd, 'drive'),
      `zmodload zsh/zpty
      zpty shell zsh -f -i
      zpty -w shell "PS1='' ; unsetopt zle_bracketed_paste 2>/dev/null; stty columns 300; fpath=($PWD/functions $fpath)"
      zpty -w shell 'autoload -U compinit; compinit -u -D; zstyle ":completion:*" list-prompt ""; LISTMAX=10000; setopt no_always_last_prompt'
      zpty -w shell 'compadd() { if [[ " $* " != *" -O "* && " $* " != *" -A "* && " $* " != *" -D "* ]]; then local -a matches; builtin compadd -A matches "$@"; print -rl -- "\${matches[@]}" >> $OFFERED; fi; builtin compadd "$@" }'
      zpty -w shell "OFFERED=$PWD/offered; print -n > $PWD/begun"
      until [[ -e begun ]]; do sleep 0.02; done
      zpty -n -w shell "$1"$'\\t'
      zpty -w shell "; print -n > $PWD/done"
      for ((i = 0; i < 500; i++)); do [[ -e done ]] && break; sleep 0.02; done
      zpty -d shell
      cat offered`
    )
    const line = words.join(' ')
    const { stdout } = spawnSync('zsh', ['-f', 'drive', line], {
      cwd,
      env: installed,
      encoding: 'utf8',
      timeout: 60_000
    })
    return stdout.split('\n').filter((text) => text !== '')
  },

  async fish(t, ...words) {
    const line = words.join(' ')
    const text = `source ${scriptFor('fish')}; complete -C '${line}'`
    // A first fish makes its folders in HOME, and fails to where another one does so at that moment.
    const HOME = sandbox()
    const { stdout, stderr } = await begin(t, 'fish', ['-c', text], { cwd: HOME, env: { ...installed, HOME } }).ended
    t.is(stderr, '')
    return stdout
      .trimEnd()
      .split('\n')
      .map((offer) => offer.split('\t')[0]!)
  }
}

for (const [shell, complete] of Object.entries(shells)) {
  const when = onlyIf(runs(shell, '--version'), `needs ${shell}`)

  when(`${shell} completes commands`, async (t) => {
    const commands = commandsIn((await fdpass(t, ['--help'])).stdout)
    const offered = new Set(await complete(t, 'fdpass', ''))
    for (const command of commands) t.true(offered.has(command), command)
    t.deepEqual(
      (await complete(t, 'fdpass', 'se')).toSorted(),
      commands.filter((command) => command.startsWith('se')).toSorted()
    )
  })

  when(`${shell} completes the commands below a command`, async (t) => {
    const offered = new Set(await complete(t, 'fdpass', 'store', ''))
    for (const command of commandsIn(helpOf(['store']))) t.true(offered.has(command), command)
    t.false(offered.has('send'))
    t.deepEqual(await complete(t, 'fdpass', 'store', 'se'), ['serve'])
    t.true((await complete(t, 'fdpass', 'store', 'put', '--group', 'daem')).includes('daemon'))
  })

  when(`${shell} completes every option of every command`, async (t) => {
    for (const words of commandsBelow()) {
      const options = [...helpOf(words).matchAll(/^ {2}(?:-\w, )?(--[\w-]+)/gm)].map(([, option]) => option!)
      const offered = await complete(t, 'fdpass', ...words, '--')
      t.deepEqual(offered.filter((word) => word.startsWith('--')).toSorted(), options.toSorted(), words.join(' '))
    }
  })

  when(`${shell} completes the values that an option can have`, async (t) => {
    t.deepEqual((await complete(t, 'fdpass', 'send', '--type', '')).toSorted(), ['dgram', 'seqpacket', 'stream'])
    t.deepEqual(await complete(t, 'fdpass', 'serve', '--handoff', 'l'), ['listener'])
    t.deepEqual((await complete(t, 'fdpass', 'completion', '')).toSorted(), ['bash', 'fish', 'zsh'])
    t.true((await complete(t, 'fdpass', 'serve', '--user', 'roo')).includes('root'))
  })
}
