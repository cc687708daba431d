"""Personal data in English and Chinese are found; the numbers of ordinary news are not."""

import pytest
import tensorflow as tf

from genre_tf.generation.safety import SafetyList

FOUND = """
His social security number is 078-05-1120
SSN: 219 09 9999
her social security number, 219099999, was posted
Reach me at (212) 555-0187
Her cell is 646.555.0143, call any time
call 6465550143 tonight
Ring him on 07911 123456
London office: 020 7946 0018
Ruf an: 030 12345678
Appelez le 06 12 34 56 78
My number in Tokyo is 090-1234-5678
whatsapp +44 7911 123456
Write to anna.smith+news@mail.example.co.uk
Card number 4242 4242 4242 4242, expires soon
Use 5555555555554444 to pay
Amex 3782 822463 10005
The card was 1234-5678-9012-3456
Send it to GB29 NWBK 6016 1331 9268 19
IBAN DE89370400440532013000
account number 123456789012
Passport number X1234567
His passport no. 533401234 was stolen
National insurance QQ would not do, but AB 12 34 56 C is one
She lives at 221B Baker Street, London
The family moved to 4821 Maple Avenue in May
身份证号110101199003071234
他的手机是13912345678
請打電話 0912-345-678
座机010-62345678，找王先生
银行卡6222021234567890123
卡号：9558801234567890
护照号E12345678
护照号码是G1234567
微信号：wang_xiaoming88
加QQ 123456789
住在朝阳区建国路88号
住址是阳光小区3号楼1202室
車主住在忠孝東路5段100號
肇事车辆京A12345
台灣身分證A123456789
""".strip().splitlines()

PASSED = """
Call 911 or the new 988 lifeline
Dial 1-800-273-8255 to reach the lifeline
Toll-free: 888-555-0199
The budget is 1,234,567,890 dollars
It cost $4,111.11 in 2019
Born in 1984, he played 2003-2019
Patriots win 34-28, Brady throws 466 yards
7-6 (7-4), 6-4, 6-2 in three sets
Dow closes at 27,821.09
Flight MH370 vanished on March 8, 2014
The A380 and the 737 Max 8
A 5-4 ruling in case 18-1234
The 24 Hours of Le Mans at 1080p
Wall Street rallies for a third day
10 Downing Street's new cat
The 2020 Chevrolet Corvette Stingray
Highway 101 and I-95 are closed
Version 10.15.1 fixes 40 bugs
Polls: 48% to 45%, margin 3.1 points
On 11-12-2019 at 09:30
Lottery numbers: 04 12 23 37 41
5th Avenue shops reopen
COVID-19 cases reach 1 000 000
Hubble has circled the Earth 170,000 times
Room 237 explains The Shining
拨打110或120
心理援助热线12320
2019年11月12日上午9点30分
成交额达1682亿元
上证指数报2905.24点
第70届戛纳电影节
全长5464公里
比分为3比2
G20峰会和5G手机
南京路步行街迎来140周年
库里砍下40分7篮板
票房突破49亿
房价每平方米8万元
""".strip().splitlines()


def safe(texts: list[str]) -> list[bool]:
    return SafetyList().is_safe(tf.constant(texts)).numpy().tolist()


@pytest.fixture(scope="module")
def passed() -> dict[str, bool]:
    return dict(zip(FOUND + PASSED, safe(FOUND + PASSED), strict=True))


def test_personal_data_are_found(passed: dict[str, bool]) -> None:
    assert [text for text in FOUND if passed[text]] == []


def test_numbers_of_news_pass(passed: dict[str, bool]) -> None:
    assert [text for text in PASSED if not passed[text]] == []
