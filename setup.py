"Everything is said in settings.ini: edit it there, not here."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

def absolute(link):
    "A link relative to the repository, for a page that shows the README elsewhere"
    return f"]({cfg['git_url']}/{'raw' if link[1].endswith('.png') else 'blob'}/{cfg['branch']}/{link[1]})"

readme = ''
if (here/'README.md').exists():
    readme = re.sub(r'\]\((?!\w+:|#)([^)\s]+)\)', absolute, (here/'README.md').read_text(encoding='utf-8'))
extras = {name: cfg[f'{name}_requirements'].split() for name in ('test', 'test-all', 'dev', 'hf')}
statuses = ['', 'Planning', 'Pre-Alpha', 'Alpha', 'Beta', 'Production/Stable', 'Mature', 'Inactive']

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=readme,
    long_description_content_type='text/markdown',
    author=cfg['author'],
    license=cfg['license'],
    keywords=cfg['keywords'],
    url=cfg['git_url'],
    classifiers=[
        f"Development Status :: {cfg['status']} - {statuses[int(cfg['status'])]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        'Programming Language :: Python :: 3',
    ],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg['lib_path']]),
    package_data={cfg['lib_path']: ['*.json', 'weights/*.safetensors', 'weights/*.kept', 'page/*']},
    install_requires=cfg['requirements'].split(),
    extras_require=extras | {'dev': extras['test'] + extras['dev']},
    entry_points={
        'console_scripts': cfg['console_scripts'].split(),
        'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
)
