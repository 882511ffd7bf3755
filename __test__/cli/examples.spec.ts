import { once } from 'node:events'
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type Running, begin, commandsBelow, helpOf, installed, projectFolder } from '../helpers/cli.ts'
import { onlyIf } from '../helpers/conditions.ts'
import { runs } from '../helpers/processes.ts'
import { fetchFrom } from '../helpers/superserver.ts'

/** What an example prints, and what has to be there or be done for it. */
interface Expectation {
  readonly stdout?: RegExp
  readonly stderr?: RegExp
  /** What it is run by, other than `sh`. */
  readonly shell?: string
  readonly needs?: readonly [condition: boolean, reason: string]
  /** Files that it speaks of. */
  readonly files?: Readonly<Record<string, string>>
  /** Of one that serves: asks it something, before it is ended. */
  readonly ask?: (t: ExecutionContext, running: Running, folder: string) => Promise<void>
  /** What is there afterwards. */
  readonly after?: (t: ExecutionContext, folder: string) => void
}

const isRoot = process.getuid?.() === 0
const user = `uid ${process.getuid?.()}, gid ${process.getgid?.()}`

/** Whether a port can be listened on. */
async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port)
  const isOpen = await once(server, 'listening').then(
    () => true,
    () => false
  )
  server.close()
  return isOpen
}

/** Sends a text to a server, and reads its answer. */
async function say(path: string, text: string): Promise<string> {
  const socket = connect(path)
  let answer = ''
  socket.setEncoding('utf8').on('data', (data: string) => (answer += data))
  socket.end(text)
  await once(socket, 'end')
  return answer
}

/** What twelve requests are answered, each on a connection of its own. */
async function answersOf(port: number): Promise<Set<string>> {
  return new Set(await Promise.all(Array.from({ length: 12 }, () => fetchFrom({ host: '127.0.0.1', port }))))
}

const server = `
import { createServer } from 'node:http'
createServer((request, response) => response.end(\`\${process.pid} \${process.getuid()}\`)).listen(WHERE)
`

/** What a store prints when it serves. */
const ready = /^fdpass: store serve: Listening on unix:.*\.sock\n$/

const config = { services: { echo: { listen: 'unix:/…/echo.sock', command: ['/bin/cat'] } } }

const expected: Readonly<Record<string, Expectation>> = {
  'Print two files with standard input between them': { stdout: /^hello\nand also\nhello\n$/ },
  'Send a file to a process that prints what it receives': {
    stdout: new RegExp(`^"greeting\\.txt" from pid \\d+, ${user}\n  file "/.*/greeting\\.txt"\n$`)
  },
  'Let a program append to a log that it has no permission to open': {
    stdout: /^before\nstarted\n$/,
    files: { 'service.log': 'before\n' }
  },
  'Send a descriptor that the shell opened, with a name; the receiver connects': {
    stdout: new RegExp(`^"report" from pid \\d+, ${user}\n  file "/etc/hostname"\n$`),
    needs: [existsSync('/etc/hostname'), 'needs /etc/hostname']
  },
  'Run a program with a file that another process opened': { stdout: /^greeting\.txt:\nhello\n$/ },
  'Receive two files, from root only, and write a line of JSON for each': {
    needs: [isRoot && existsSync('/etc/hostname'), 'needs root, and /etc/hostname'],
    stdout: /^\{.*\}\n\{.*\}\n$/,
    after(t, folder) {
      const lines = readFileSync(join(folder, 'received.jsonl'), 'utf8').trim().split('\n')
      const received = lines.map((line) => JSON.parse(line))
      t.deepEqual(new Set(received.map(({ fds }) => fds[0].path)), new Set(['/etc/hostname', '/etc/passwd']))
      t.deepEqual(received[0].sender.uid, 0)
    }
  },
  'Serve a privileged port with four unprivileged processes': {
    needs: [isRoot && (await isFree(80)), 'needs root, and port 80 free'],
    files: { 'app.mjs': server.replace('WHERE', '3000') },
    async ask(t, running) {
      await running.printed(/Listening on tcp:.*:80\n/)
      const answers = Array.from({ length: 12 }, async () => (await fetch('http://127.0.0.1/')).text())
      const processes = new Set(await Promise.all(answers))
      t.is(processes.size, 4)
      for (const process of processes) t.regex(process, /^\d+ 65534$/)
    }
  },
  'Serve an ordinary server with four processes; SIGHUP replaces them': {
    needs: [await isFree(3000), 'needs port 3000 free'],
    files: { 'app.mjs': server.replace('WHERE', '3000') },
    async ask(t, running) {
      await running.printed(/Listening on tcp:.*:3000\n/)
      const before = await answersOf(3000)
      t.is(before.size, 4)
      running.child.kill('SIGHUP')
      await running.printed(/(Worker \d+ is ready\n[^]*){8}/)
      for (const answer of await answersOf(3000)) t.false(before.has(answer))
    }
  },
  'Run a program for each connection, at most 20 at a time': {
    async ask(t, running, folder) {
      await running.printed(/Listening on unix:.*\/echo\.sock\n/)
      t.is(await say(join(folder, 'echo.sock'), 'hello'), 'hello')
    }
  },
  'Serve what a file describes, and print events': {
    files: { 'services.json': JSON.stringify(config) },
    async ask(t, running, folder) {
      const line = await running.printed(/.*\n/)
      t.deepEqual(JSON.parse(line[0]), {
        event: 'listening',
        service: 'echo',
        name: `unix:${folder}/echo.sock`,
        address: `unix:${folder}/echo.sock`
      })
      t.is(await say(join(folder, 'echo.sock'), 'hello'), 'hello')
    }
  },
  'Serve; repeat the line to replace server.mjs without refusing connections': {
    files: { 'server.mjs': server.replace('WHERE', "'./web.sock'") },
    async ask(t, running, folder) {
      await running.printed(/Listening on unix:.*\/web\.sock\n/)
      const request = 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
      t.regex(await say(join(folder, 'web.sock'), request), /^HTTP\/1\.1 200 OK\r\n/)
    }
  },
  'Keep a log open between runs of a program': { stdout: /^started\nended\n$/, stderr: ready },
  'Serve root and the user nobody': {
    async ask(_t, running) {
      await running.printed(ready)
    }
  },
  'Keep a file for an hour; clients need no permission to open it': { stdout: /^hello\n$/, stderr: ready },
  'Let each run of a program continue in a file where the previous run ended': {
    stdout: /^run 1\nrun 2\nrun 3\n$/,
    stderr: ready
  },
  'List the entries of a store': {
    stdout: new RegExp(
      '^MODE {6,}UID  GID  EXPIRES  KINDS {18}NAME\n' +
        `rw-r----- +${process.getuid?.()} +${process.getgid?.()} +never  file {19}greeting\n` +
        `rw------- +${process.getuid?.()} +${process.getgid?.()} +never  file,character-device  both\n$`
    ),
    stderr: ready
  },
  'Delete an entry': { stdout: /^$/, stderr: ready },
  'Enable completion in this bash; add the line to ~/.bashrc to keep it': {
    shell: 'bash',
    needs: [runs('bash', '--version'), 'needs bash'],
    stdout: /^$/
  },
  'Enable completion in every zsh and fish': {
    stdout: /^$/,
    after(t, folder) {
      t.regex(readFileSync(join(folder, '.zsh/completions/_fdpass'), 'utf8'), /^#compdef fdpass\n/)
      t.regex(readFileSync(join(folder, '.config/fish/completions/fdpass.fish'), 'utf8'), /complete -c fdpass/)
    }
  }
}

/** The examples in a command's help, by their first line. */
function examplesIn(text: string): Map<string, string> {
  const [, part = ''] = /^Examples:\n([^]*?)\n\n(?=\S)/m.exec(text) ?? []
  const scripts = part.replaceAll(/^ {2}/gm, '').split('\n\n')
  return new Map(scripts.map((script) => [/^# (.*)$/m.exec(script)![1]!, script]))
}

const commands = commandsBelow()
const found = new Map(commands.flatMap((words) => [...examplesIn(helpOf(words))]))

test('All examples of the help are known here, and each command has one', (t) => {
  t.deepEqual([...found.keys()].toSorted(), Object.keys(expected).toSorted())
  for (const words of commands) t.not(examplesIn(helpOf(words)).size, 0, words.join(' '))
})

let count = 0
for (const [title, text] of found) {
  const { stdout, stderr = /^$/, shell = 'sh', needs = [true, ''], files = {}, ask, after } = expected[title] ?? {}
  onlyIf(...needs)(`The example of the help works as described: ${title}`, async (t) => {
    const folder = projectFolder(join('cli', `${count++}`))
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    for (const [name, content] of Object.entries(files)) {
      writeFileSync(join(folder, name), content.replaceAll('/…', folder))
      chmodSync(join(folder, name), 0o644)
    }
    const isServer = ask !== undefined
    const options = { cwd: folder, env: { ...installed, HOME: folder } }
    const running = begin(t, shell, ['-ec', isServer ? `exec ${text.replace(/^#.*\n/, '')}` : text], options)
    if (isServer) {
      await ask(t, running, folder)
      running.child.kill('SIGTERM')
      t.is((await running.ended).signal, 'SIGTERM')
    } else {
      const ended = await running.ended
      t.is(ended.code, 0, ended.stderr)
      t.regex(ended.stderr, stderr)
      t.regex(ended.stdout, stdout!)
    }
    after?.(t, folder)
  })
}
